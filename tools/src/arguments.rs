//! Parsers of argument values.

use std::path::PathBuf;

/// A whole number above 0.
///
/// # Errors
/// A message for the user.
pub fn whole_number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("`{text}` is not a whole number above 0"))
}

/// A finite number above 0.
///
/// # Errors
/// A message for the user.
pub fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| format!("`{text}` is not a number above 0"))
}

/// A number from 0 to 1.
///
/// # Errors
/// A message for the user.
pub fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| format!("`{text}` is not a number from 0 to 1"))
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
        assert_eq!((whole_number("3"), share("0.5"), positive("0.2")), (Ok(3), Ok(0.5), Ok(0.2)));
        assert_eq!(model_and_file("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        for wrong in ["0", "-1", "2.5", ""] {
            assert!(whole_number(wrong).unwrap_err().contains(&format!("`{wrong}`")));
        }
        for wrong in ["1.5", "-0.1", "NaN", "half"] {
            assert!(share(wrong).unwrap_err().contains(wrong));
        }
        for wrong in ["0", "-0.1", "inf", "NaN"] {
            assert!(positive(wrong).unwrap_err().contains(wrong));
        }
        for wrong in ["a", "=b", "a="] {
            assert!(model_and_file(wrong).unwrap_err().contains(wrong));
        }
    }
}
