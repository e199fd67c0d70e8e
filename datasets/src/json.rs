//! Reading JSON: the one way to do it. `tests/docs.rs` refuses readers of `serde_json` elsewhere.
//!
//! A file is UTF-8 or UTF-16, with or without a byte order mark. It holds one document: bytes after its end are an error, because
//! `serde_json` alone ignores them when it reads from a stream, and half of the data with them. A key that occurs twice in an object is an
//! error, because most readers silently take the last one. Errors are sentences that name the file, the field, and line and column.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::DataError;

/// Reads a file with one JSON document.
///
/// # Errors
/// When the file cannot be read, is not valid JSON, holds more than one document, or a field is missing, doubled or has the wrong type.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let value = read_with(path, PhantomData::<Unique>, String::new)?;
    decode(value.0).map_err(|(place, message)| DataError::Json { path: path.to_owned(), place, message })
}

/// Parses the text of one JSON document, such as a line of a log or a value of a checkpoint's metadata.
///
/// # Errors
/// A sentence that names the field, or line and column.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let value: Unique = serde_json::from_str(text).map_err(|error| {
        let near = near(text.as_bytes(), error.line(), error.column()).unwrap_or_default();
        explain(&error, &near)
    })?;
    decode(value.0).map_err(|(place, message)| if place.is_empty() { message } else { format!("{place}: {message}") })
}

/// Reads a file with one JSON document through `seed`, without holding the document in memory. `place` says where the reader is, such as
/// `annotations[3].bbox`, when it fails.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_with<T>(
    path: &Path,
    seed: impl for<'de> DeserializeSeed<'de, Value = T>,
    place: impl FnOnce() -> String,
) -> Result<T, DataError> {
    let parse = || {
        let mut reader = serde_json::Deserializer::from_reader(open(path).map_err(serde_json::Error::io)?);
        let value = seed.deserialize(&mut reader)?;
        reader.end().map(|()| value)
    };
    parse().map_err(|error: serde_json::Error| {
        if error.is_io() {
            return DataError::io(path, error.into());
        }
        // The file is read again up to the fault, to quote it.
        let near = open(path).ok().and_then(|reader| near(reader, error.line(), error.column()).ok()).unwrap_or_default();
        // A fault of the whole document has no field.
        let place = if error.is_data() || NO_NUMBER.iter().any(|word| near.after.starts_with(word)) { place() } else { String::new() };
        DataError::Json { path: path.to_owned(), place, message: explain(&error, &near) }
    })
}

/// What Python writes for floats that JSON cannot hold.
const NO_NUMBER: [&str; 4] = ["NaN", "nan", "Infinity", "-Infinity"];

/// Converts a value; an error is the field and a sentence.
fn decode<T: DeserializeOwned>(value: Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let place = error.path().to_string();
        (if place == "." { String::new() } else { place }, sentence(&error.into_inner().to_string()))
    })
}

/// Says what a type error of serde means to a person who does not know Rust's types.
pub fn sentence(message: &str) -> String {
    let parts = |head: &str| message.strip_prefix(head)?.split_once(", expected ");
    if let Some((found, expected)) = parts("invalid type: ").or_else(|| parts("invalid value: ")) {
        return format!("expected {}, found {}", plain(expected), plain(found));
    }
    if let Some((found, expected)) = parts("invalid length ") {
        return format!("expected {}, found {}", plain(expected), values(found));
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{field} is missing");
    }
    if let Some(field) = message.strip_prefix("duplicate field ") {
        return format!("the key {field} occurs twice");
    }
    if message.starts_with("data did not match any variant of untagged enum ") {
        return "the value has none of the accepted forms".to_owned();
    }
    message.to_owned()
}

/// A number of values.
fn values(count: &str) -> String {
    format!("{count} {}", if count == "1" { "value" } else { "values" })
}

/// The name of a type or a value for a person.
fn plain(name: &str) -> String {
    let name = name.trim();
    let known = match name {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number of at least 0",
        "isize" | "i64" | "i32" | "i16" | "i8" => "a whole number",
        "f64" | "f32" => "a number",
        "bool" | "a boolean" => "true or false",
        "string" | "a string" | "a borrowed string" | "str" | "path string" => "text",
        "sequence" | "a sequence" => "a list",
        "map" | "a map" | "struct variant" | "newtype variant" | "tuple variant" => "an object",
        "null" | "unit" | "unit value" | "Option value" => "null",
        "unit variant" => "a name alone",
        "string or map" => "a name or an object",
        _ => "",
    };
    if !known.is_empty() {
        return known.to_owned();
    }
    let length = |head: &str| name.strip_prefix(head).map(|count| format!("a list of {}", values(count)));
    if let Some(list) = length("an array of length ").or_else(|| length("a tuple of size ")) {
        return list;
    }
    // The rest of these names is a type of Rust.
    for (kind, word) in [
        ("struct ", "an object"),
        ("tuple struct ", "a list"),
        ("internally tagged enum ", "an object"),
        ("adjacently tagged enum ", "an object"),
        ("enum ", "a name or an object"),
    ] {
        if name.starts_with(kind) {
            return word.to_owned();
        }
    }
    let values = [("string ", "the text "), ("integer ", "the number "), ("floating point ", "the number "), ("boolean ", "")];
    match values.iter().find_map(|(kind, word)| Some((word, name.strip_prefix(kind)?))) {
        Some((word, value)) => format!("{word}{}", value.trim_matches('`')),
        None => name.to_owned(),
    }
}

/// A sentence for an error of `serde_json`.
fn explain(error: &serde_json::Error, near: &Near) -> String {
    let text = error.to_string();
    let at = format!("line {}, column {}", error.line(), error.column());
    // The message without its own position.
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    if error.is_data() {
        return sentence(reason);
    }
    if near.blank {
        return "it is empty".to_owned();
    }
    if error.is_eof() {
        return format!("it ends in the middle of the document ({at}): it is cut off");
    }
    if reason == "trailing characters" {
        return format!(
            "after the end of the document, at {at}, more text follows (`{}`): it holds a second document or is damaged",
            near.quote()
        );
    }
    if let Some(word) = NO_NUMBER.iter().find(|word| near.after.starts_with(*word)) {
        return format!("`{word}` at {at} is not valid JSON, although Python writes it; put a number or null in its place");
    }
    if let Some(word) = ["True", "False", "None"].iter().find(|word| near.after.starts_with(*word)) {
        return format!("`{word}` at {at} is Python, not valid JSON; write the file with json.dump");
    }
    if (error.line(), error.column()) <= (1, 1) {
        return format!("it is not valid JSON: it begins with `{}`", near.quote());
    }
    format!("it is not valid JSON: {reason} at {at}, near `{}`", near.quote())
}

/// The text around a fault.
#[derive(Default)]
struct Near {
    /// Text from the word at the fault.
    after: String,
    /// Whether the whole text is white space.
    blank: bool,
}

impl Near {
    fn quote(&self) -> String {
        self.after.chars().take(16).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_owned()
    }
}

/// Text at `line` and `column`, counted from 1. The quotation begins with the word that the column is in.
fn near(mut reader: impl BufRead, line: usize, column: usize) -> io::Result<Near> {
    const BEFORE: usize = 12;
    const AFTER: u64 = 48;
    let mut blank = true;
    for _ in 1..line {
        loop {
            let buffer = reader.fill_buf()?;
            let (used, found) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(place) => (place + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            blank &= buffer[..used].iter().all(u8::is_ascii_whitespace);
            reader.consume(used);
            if found {
                break;
            }
        }
    }
    let mut left = column.saturating_sub(BEFORE + 1);
    while left > 0 {
        let buffer = reader.fill_buf()?;
        let used = buffer.len().min(left);
        if used == 0 {
            break;
        }
        blank &= buffer[..used].iter().all(u8::is_ascii_whitespace);
        reader.consume(used);
        left -= used;
    }
    let mut text = Vec::new();
    reader.take(AFTER).read_to_end(&mut text)?;
    let is_word = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-';
    let mut start = column.saturating_sub(1).min(BEFORE).min(text.len());
    while start > 0 && is_word(&text[start - 1]) {
        start -= 1;
    }
    blank &= text.iter().all(u8::is_ascii_whitespace);
    Ok(Near { after: String::from_utf8_lossy(&text[start..]).into_owned(), blank })
}

/// Opens a text file; the bytes that come out are UTF-8 without a byte order mark.
fn open(path: &Path) -> io::Result<BufReader<Text>> {
    const BUFFER: usize = 1 << 18;
    let mut file = BufReader::with_capacity(BUFFER, vmamba_files::open(path)?);
    let (mark, text): (usize, fn(BufReader<File>) -> Text) = match file.fill_buf()? {
        [0xef, 0xbb, 0xbf, ..] => (3, Text::Utf8),
        [0xff, 0xfe, ..] => (2, |file| Text::Utf16(Utf16::new(file, u16::from_le_bytes))),
        [0xfe, 0xff, ..] => (2, |file| Text::Utf16(Utf16::new(file, u16::from_be_bytes))),
        // JSON begins with an ASCII character.
        [first, 0, ..] if *first != 0 => (0, |file| Text::Utf16(Utf16::new(file, u16::from_le_bytes))),
        [0, second, ..] if *second != 0 => (0, |file| Text::Utf16(Utf16::new(file, u16::from_be_bytes))),
        _ => (0, Text::Utf8),
    };
    file.consume(mark);
    Ok(BufReader::with_capacity(BUFFER, text(file)))
}

/// A text file.
enum Text {
    Utf8(BufReader<File>),
    Utf16(Utf16),
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Utf8(file) => file.read(buffer),
            Self::Utf16(file) => file.read(buffer),
        }
    }
}

/// A file of 16-bit units as UTF-8. A half of a pair without its partner is an error.
struct Utf16 {
    file: BufReader<File>,
    unit: fn([u8; 2]) -> u16,
    /// The first half of a pair.
    high: Option<u16>,
    /// The rest of a character that did not fit.
    rest: Vec<u8>,
}

impl Utf16 {
    fn new(file: BufReader<File>, unit: fn([u8; 2]) -> u16) -> Self {
        Self { file, unit, high: None, rest: Vec::new() }
    }

    /// The next character; `None` at the end.
    fn character(&mut self) -> io::Result<Option<char>> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "it is UTF-16 with a broken character");
        loop {
            let mut bytes = [0; 2];
            let read = self.file.read(&mut bytes[..1])?;
            if read == 0 {
                return if self.high.is_some() { Err(broken()) } else { Ok(None) };
            }
            self.file.read_exact(&mut bytes[1..]).map_err(|_| broken())?;
            let unit = (self.unit)(bytes);
            let units = self.high.take().into_iter().chain([unit]);
            match char::decode_utf16(units).next() {
                Some(Ok(character)) => return Ok(Some(character)),
                Some(Err(_)) if (0xd800..0xdc00).contains(&unit) => self.high = Some(unit),
                _ => return Err(broken()),
            }
        }
    }
}

impl Read for Utf16 {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.len() < buffer.len() {
            let Some(character) = self.character()? else { break };
            self.rest.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

/// A JSON value whose objects have no key twice. [`Value`] would keep the last one.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;
        impl<'de> Visitor<'de> for AnyValue {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
                Ok(Value::Bool(flag))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(number.into())
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(number.into())
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(number.into())
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut values = Vec::new();
                while let Some(Unique(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(Value::Array(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
                let mut fields = Map::new();
                while let Some((key, Unique(value))) = object.next_entry::<String, Unique>()? {
                    if fields.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("the key `{key}` occurs twice")));
                    }
                    fields.insert(key, value);
                }
                Ok(Value::Object(fields))
            }
        }
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Point {
        x: f64,
        name: String,
        #[serde(default)]
        count: usize,
    }

    fn read_bytes(bytes: &[u8]) -> Result<Point, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path()).map_err(|error| error.to_string())
    }

    const TEXT: &str = "{\"x\": 1.5, \"name\": \"é😀\"}\r\n";

    #[test]
    fn byte_order_marks_and_utf_16_are_read() {
        let expected = Point { x: 1.5, name: "é😀".to_owned(), count: 0 };
        let utf16 = |mark: &[u8], bytes: fn(u16) -> [u8; 2]| [mark.to_vec(), TEXT.encode_utf16().flat_map(bytes).collect()].concat();
        for bytes in [
            TEXT.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", TEXT.as_bytes()].concat(),
            utf16(b"\xff\xfe", u16::to_le_bytes),
            utf16(b"\xfe\xff", u16::to_be_bytes),
            utf16(b"", u16::to_le_bytes),
            utf16(b"", u16::to_be_bytes),
        ] {
            assert_eq!(read_bytes(&bytes).as_ref(), Ok(&expected), "{bytes:?}");
        }
        let mut half = utf16(b"\xff\xfe", u16::to_le_bytes);
        half.pop();
        assert!(read_bytes(&half).unwrap_err().contains("UTF-16 with a broken character"));
    }

    #[test]
    fn bytes_after_the_document_are_an_error() {
        let error = read_bytes(format!("{TEXT}{TEXT}").as_bytes()).unwrap_err();
        assert!(error.contains("after the end of the document, at line 2, column 1, more text follows (`{\"x\": 1.5"), "{error}");
        assert!(parse::<Value>("{} x").unwrap_err().contains("more text follows (`x`)"));
    }

    #[test]
    fn a_doubled_key_is_named() {
        assert!(read_bytes(br#"{"x": 1, "name": "a", "x": 2}"#).unwrap_err().contains("the key `x` occurs twice"));
        assert!(parse::<Value>(r#"{"a": {"b": 1, "b": 1}}"#).unwrap_err().contains("the key `b` occurs twice"));
    }

    #[test]
    fn type_errors_name_no_type_of_rust() {
        for (message, expected) in [
            ("invalid type: string \"x\", expected usize", "expected a whole number of at least 0, found the text \"x\""),
            ("invalid type: integer `3`, expected struct TrainConfig", "expected an object, found the number 3"),
            ("invalid type: floating point `0.5`, expected internally tagged enum Algorithm", "expected an object, found the number 0.5"),
            ("invalid type: unit variant, expected newtype variant", "expected an object, found a name alone"),
            ("invalid type: boolean `true`, expected f64", "expected a number, found true"),
            ("invalid length 3, expected an array of length 2", "expected a list of 2 values, found 3 values"),
            ("invalid length 1, expected a tuple of size 4", "expected a list of 4 values, found 1 value"),
            ("invalid type: map, expected path string", "expected text, found an object"),
            ("missing field `init`", "`init` is missing"),
        ] {
            assert_eq!(sentence(message), expected);
        }
    }

    #[test]
    fn errors_are_sentences() {
        for (text, part) in [
            ("", "it is empty"),
            (" \n \n", "it is empty"),
            ("hello", "it is not valid JSON: it begins with `hello`"),
            ("{\"x\": 1", "it ends in the middle of the document (line 1, column 7): it is cut off"),
            ("{\"x\": NaN, \"name\": \"\"}", "`NaN` at line 1, column 7 is not valid JSON, although Python writes it"),
            ("{\"x\": -Infinity}", "`-Infinity` at line 1"),
            ("{\"x\":\n [Infinity]}", "`Infinity` at line 2"),
            ("{\"x\": nan}", "`nan` at line 1"),
            ("{\"x\": None}", "`None` at line 1, column 7 is Python"),
            ("{\"x\": 1, }", "it is not valid JSON: trailing comma at line 1"),
            ("{\"x\": 1}", "`name` is missing"),
            ("{\"x\": \"1\", \"name\": \"\"}", "x: expected a number, found the text \"1\""),
            ("{\"x\": 1, \"name\": 3}", "name: expected text, found the number 3"),
            ("{\"x\": 1, \"name\": \"\", \"count\": -2}", "count: expected a whole number of at least 0, found the number -2"),
            ("[]", "expected "),
        ] {
            let error = read_bytes(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(read::<Value>(Path::new("/no/such.json")).unwrap_err().to_string().contains("/no/such.json: No such file"));
        // Opening a folder works, reading it does not: a problem of the file system, not of the JSON.
        assert!(matches!(read::<Value>(tempfile::tempdir().unwrap().path()), Err(DataError::Io { .. })));
    }
}
