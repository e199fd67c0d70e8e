//! Parsers of argument values.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use vmamba_types::setting::THREADS;

/// A side of a square image in pixels. The largest has as many pixels as the largest crop of a configuration.
///
/// # Errors
/// A message for the user.
pub fn pixels(text: &str) -> Result<usize, String> {
    whole(text, 1..=16_384)
}

/// Images of a batch.
///
/// # Errors
/// A message for the user.
pub fn batch(text: &str) -> Result<usize, String> {
    whole(text, 1..=65_536)
}

/// How often something is done, or how many things are taken.
///
/// # Errors
/// A message for the user.
pub fn count(text: &str) -> Result<usize, String> {
    whole(text, 1..=10_000_000)
}

/// Threads.
///
/// # Errors
/// A message for the user.
pub fn threads(text: &str) -> Result<usize, String> {
    whole(text, THREADS)
}

fn whole(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("`{text}` is not a whole number from {} to {}", range.start(), range.end()))
}

/// A number above 0 and at most a million.
///
/// # Errors
/// A message for the user.
pub fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && *number <= 1e6);
    number.ok_or_else(|| format!("`{text}` is not a number above 0 and at most 1000000"))
}

/// A number from 0 to 1.
///
/// # Errors
/// A message for the user.
pub fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))
}

/// A size of an anchor, in strides of its level.
///
/// # Errors
/// A message for the user.
pub fn anchor_scale(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|scale| *scale > 0.0 && *scale <= 4_096.0)
        .ok_or_else(|| format!("`{text}` is not a number above 0 and at most 4096"))
}

/// Images on a contact sheet.
///
/// # Errors
/// A message for the user.
pub fn sheet_images(text: &str) -> Result<usize, String> {
    whole(text, 1..=1_000)
}

/// `MODEL=FILE`.
///
/// # Errors
/// A message for the user.
pub fn model_and_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((model, file)) if !model.is_empty() && !file.is_empty() => Ok((model.to_owned(), file.into())),
        _ => Err(format!("`{text}` is not MODEL=FILE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_wrong_value() {
        assert_eq!((count("3"), share("0.5"), positive("0.2")), (Ok(3), Ok(0.5), Ok(0.2)));
        assert_eq!(model_and_file("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        for wrong in ["0", "-1", "2.5", ""] {
            for parser in [pixels, batch, count, threads] {
                assert!(parser(wrong).unwrap_err().contains(&format!("`{wrong}`")));
            }
        }
        for parser in [pixels, batch, count, threads] {
            assert!(parser("100000000000").unwrap_err().contains("from 1 to "));
        }
        assert_eq!(pixels("100000"), Err("`100000` is not a whole number from 1 to 16384".to_owned()));
        for wrong in ["1.5", "-0.1", "NaN", "half"] {
            assert!(share(wrong).unwrap_err().contains(wrong));
        }
        for wrong in ["0", "-0.1", "inf", "NaN", "1e11"] {
            assert!(positive(wrong).unwrap_err().contains(wrong));
        }
        for wrong in ["a", "=b", "a="] {
            assert!(model_and_file(wrong).unwrap_err().contains(wrong));
        }
    }
}
