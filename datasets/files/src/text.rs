//! Text in files: how it is decoded, and how names from files are printed.

use std::borrow::Cow;

use crate::input::Refusal;

/// Decodes a text: UTF-8 with or without a byte order mark, or UTF-16 with one. The mark is no part of the result.
///
/// # Errors
/// [`Refusal::NotText`] with the offset of the first invalid byte, or [`Refusal::NotUtf16`].
pub fn decode(bytes: Vec<u8>) -> Result<String, Refusal> {
    let wide = |pairs: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = pairs.as_chunks::<2>();
        let units = pairs.iter().map(|pair| unit(*pair));
        let text: Result<String, _> = char::decode_utf16(units).collect();
        text.ok().filter(|_| rest.is_empty()).ok_or(Refusal::NotUtf16)
    };
    match bytes.as_slice() {
        [0xff, 0xfe, pairs @ ..] => wide(pairs, u16::from_le_bytes),
        [0xfe, 0xff, pairs @ ..] => wide(pairs, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => narrow(rest.to_vec(), 3),
        _ => narrow(bytes, 0),
    }
}

/// Decodes UTF-8 that begins at `offset` of its file.
fn narrow(bytes: Vec<u8>, offset: usize) -> Result<String, Refusal> {
    String::from_utf8(bytes).map_err(|error| Refusal::NotText(offset + error.utf8_error().valid_up_to()))
}

/// The text with control characters, line breaks included, and marks of writing direction escaped as `\n`, `\u{1b}`, …
///
/// Names of tensors, classes and files come from files that others made. Printed as they are, they could move the cursor, change colours,
/// forge lines, or display text in another order than it has.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(unprintable) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if unprintable(c) { c.escape_default().collect::<String>() } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Control characters, line and paragraph separators, and the marks that change the direction of writing.
fn unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text() {
        assert_eq!(decode(b"\xef\xbb\xbfa\xc3\xa4".to_vec()).unwrap(), "aä");
        assert_eq!(decode(b"\xff\xfea\0\xe4\0".to_vec()).unwrap(), "aä");
        assert_eq!(decode(b"\xfe\xff\0a\0\xe4".to_vec()).unwrap(), "aä");
        assert_eq!(decode("aä".into()).unwrap(), "aä");
    }

    #[test]
    fn the_first_invalid_byte_of_a_text_is_named() {
        assert_eq!(decode(b"ab\xff".to_vec()), Err(Refusal::NotText(2)));
        assert_eq!(decode(b"\xef\xbb\xbfab\xff".to_vec()), Err(Refusal::NotText(5)));
        for odd in [&b"\xff\xfea"[..], b"\xff\xfe\0\xd8"] {
            assert_eq!(decode(odd.to_vec()), Err(Refusal::NotUtf16));
        }
    }

    #[test]
    fn terminal_escapes_in_a_name_are_printed_as_text() {
        assert_eq!(printable("\u{1b}[31mred\u{7}\r\n"), "\\u{1b}[31mred\\u{7}\\r\\n");
        assert_eq!(printable("a\u{9b}2Jb\u{202e}c"), "a\\u{9b}2Jb\\u{202e}c");
        assert!(matches!(printable("straße 日本 'a' \\ \"b\""), Cow::Borrowed(_)));
    }
}
