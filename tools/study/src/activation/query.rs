//! The position of a query on a picture.

use std::fmt;
use std::str::FromStr;

use crate::error::{Result, invalid};

/// A position `x,y`: fractions of width and height (`0.5,0.25`) or pixels (`120px,80px`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Query {
    /// Fractions from 0 to 1.
    Relative([f64; 2]),
    /// Pixels of the network input, from the top left corner.
    Pixels([u32; 2]),
}

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a position; write x,y as fractions of width and height from 0 to 1, or as pixels: 120px,80px");
        let (x, y) = text.split_once(',').ok_or_else(wrong)?;
        if let (Some(x), Some(y)) = (x.strip_suffix("px"), y.strip_suffix("px")) {
            let pixels = [x, y].map(|part| part.trim().parse::<i64>().ok());
            let [Some(x), Some(y)] = pixels else { return Err(wrong()) };
            let inside = |part: i64| u32::try_from(part).map_err(|_| "outside the image, whose pixels are counted from 0".to_owned());
            return Ok(Self::Pixels([inside(x)?, inside(y)?]));
        }
        let parts = [x, y].map(|part| part.trim().parse().ok().filter(|part: &f64| part.is_finite()));
        let [Some(x), Some(y)] = parts else { return Err(wrong()) };
        if ![x, y].iter().all(|part| (0.0..=1.0).contains(part)) {
            return Err("outside the image, whose width and height go from 0 to 1; write pixels as 120px,80px".to_owned());
        }
        Ok(Self::Relative([x, y]))
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative([x, y]) => write!(f, "{x},{y}"),
            Self::Pixels([x, y]) => write!(f, "{x}px,{y}px"),
        }
    }
}

impl Query {
    /// The position as fractions of the width and height of a picture of `[width, height]` pixels.
    ///
    /// # Errors
    /// [`StudyError::Invalid`](crate::StudyError::Invalid) when it is outside the picture.
    pub fn within(self, [width, height]: [u32; 2]) -> Result<[f64; 2]> {
        match self {
            Self::Relative(parts) => Ok(parts),
            Self::Pixels([x, y]) if x < width && y < height => {
                Ok([(f64::from(x) + 0.5) / f64::from(width), (f64::from(y) + 0.5) / f64::from(height)])
            }
            Self::Pixels(_) => Err(invalid!(
                "--query {self} is outside the image, which is {width} x {height} pixels after resize and crop: 0px to {}px and 0px to {}px",
                width.saturating_sub(1),
                height.saturating_sub(1)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_fractions_or_pixels_inside_the_picture() {
        assert_eq!("0.5,1".parse(), Ok(Query::Relative([0.5, 1.0])));
        assert_eq!("3px,0px".parse::<Query>().unwrap().within([7, 5]).unwrap(), [0.5, 0.1]);
        assert!("7px,0px".parse::<Query>().unwrap().within([7, 5]).unwrap_err().to_string().contains("7 x 5"));
        for wrong in ["", "0.5", "NaN,0", "3px,4", "1,2,3", "px,px"] {
            assert!(wrong.parse::<Query>().unwrap_err().contains("not a position"), "{wrong}");
        }
        for outside in ["1.5,0", "-0.1,0", "-3px,4px", "0px,-1px"] {
            assert!(outside.parse::<Query>().unwrap_err().contains("outside the image"), "{outside}");
        }
    }
}
