//! The results that a training program shows at its end.

use std::path::Path;

use anyhow::Result;
use burn::prelude::Device;
use vmamba_recipes::Configured;
use vmamba_report::RunPictures;

/// A recipe whose results a training program shows.
pub trait Present: Configured {
    /// Draws predictions of `count` validation images; returns their number.
    ///
    /// # Errors
    /// When a sample cannot be read or a picture cannot be written.
    fn draw(&self, model: &Self::Model, device: &Device, pictures: &mut RunPictures, count: usize) -> Result<usize>;

    /// The tables of the newest validation as text, and its curves as files in `folder`. Empty before the first validation.
    ///
    /// # Errors
    /// When the data cannot be read or a curve cannot be written.
    fn results(&self, folder: &Path) -> Result<String>;
}

/// `count` indices spread evenly over `0..len`; all of them where there are fewer.
pub fn spread(count: usize, len: usize) -> impl ExactSizeIterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |position| position * len / count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_spread_evenly() {
        let spread = |count, len| spread(count, len).collect::<Vec<_>>();
        assert_eq!(spread(3, 9), [0, 3, 6]);
        assert_eq!(spread(5, 2), [0, 1]);
        assert!(spread(0, 4).is_empty() && spread(4, 0).is_empty());
    }
}
