//! COCO's files entry by entry: memory holds one entry at a time, however long the file is.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::entry::{Key, RawEntry, Scalar};
use crate::error::{AnnotationProblem, DataError};
use crate::json::read_with;

/// One of the three lists of an annotation file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
pub(super) enum List {
    Images,
    Annotations,
    Categories,
    /// Any other key of the file.
    #[serde(other)]
    Other,
}

impl List {
    pub(super) const ALL: [Self; 3] = [Self::Images, Self::Annotations, Self::Categories];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Annotations => "annotations",
            Self::Categories => "categories",
            Self::Other => "",
        }
    }
}

/// What takes the entries: the list, the place in it, and the entry. [`ControlFlow::Break`] ends the reading with an error.
pub(super) trait Sink: FnMut(List, usize, RawEntry) -> ControlFlow<DataError> {}
impl<F: FnMut(List, usize, RawEntry) -> ControlFlow<DataError>> Sink for F {}

/// What has become of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    /// The file has no such list.
    #[default]
    Nowhere,
    /// It was passed over.
    Skipped,
    /// Its entries have been taken.
    Read,
}

/// Reads the lists of an annotation file that `keep` chooses, given what has become of those before it. The result is in the order of
/// [`List::ALL`].
///
/// # Errors
/// When the file cannot be read or is not valid JSON, a list is none or occurs twice, or `sink` breaks.
pub(super) fn stream_lists(path: &Path, keep: impl Fn(List, [Found; 3]) -> bool, mut sink: impl Sink) -> Result<[Found; 3], DataError> {
    let state = RefCell::new(State { sink: &mut sink, list: "", index: None, field: "", failure: None });
    finish(read_with(path, Document { keep: &keep, state: &state }, || place(&state)), path, &state)
}

/// Reads the entries of a file that is one list, as results are.
///
/// # Errors
/// As [`stream_lists`].
pub(super) fn stream_results(path: &Path, mut sink: impl Sink) -> Result<(), DataError> {
    let state = RefCell::new(State { sink: &mut sink, list: "result ", index: None, field: "", failure: None });
    let seed = Entries { list: List::Other, what: "a list of results", keep: true, state: &state };
    finish(read_with(path, seed, || place(&state)), path, &state).map(|_| ())
}

/// The result of the reading, or the reason for which the reader itself has stopped it.
fn finish<T>(read: Result<T, DataError>, path: &Path, state: &RefCell<State>) -> Result<T, DataError> {
    match state.borrow_mut().failure.take() {
        Some(Failure::Sink(error)) => Err(error),
        Some(Failure::Whole(problem)) => Err(DataError::annotation(path, "", problem)),
        None => read,
    }
}

/// Why the reader stops, beside errors of the JSON.
enum Failure {
    Sink(DataError),
    Whole(AnnotationProblem),
}

/// Where the reader is.
struct State<'a> {
    sink: &'a mut dyn Sink,
    list: &'static str,
    index: Option<usize>,
    field: &'static str,
    failure: Option<Failure>,
}

fn place(state: &RefCell<State>) -> String {
    let State { list, index, field, .. } = &*state.borrow();
    match index {
        None => (*list).trim_end().to_owned(),
        Some(index) if list.ends_with(' ') => format!("{list}{index}{}{field}", if field.is_empty() { "" } else { ": " }),
        Some(index) => format!("{list}[{index}]{}{field}", if field.is_empty() { "" } else { "." }),
    }
}

/// Stops the reading; [`finish`] replaces the error.
fn stop<E: Error>(state: &RefCell<State>, failure: Failure) -> E {
    state.borrow_mut().failure = Some(failure);
    E::custom("stopped")
}

/// The object that is the whole file.
struct Document<'a, 'b> {
    keep: &'a dyn Fn(List, [Found; 3]) -> bool,
    state: &'a RefCell<State<'b>>,
}

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = [Found; 3];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<[Found; 3], D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = [Found; 3];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with COCO's lists `images`, `annotations` and `categories`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<[Found; 3], A::Error> {
        let (mut seen, mut found) = ([false; 3], [Found::default(); 3]);
        while let Some(list) = object.next_key::<List>()? {
            let Some(place) = List::ALL.iter().position(|own| *own == list) else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            if std::mem::replace(&mut seen[place], true) {
                return Err(stop(self.state, Failure::Whole(AnnotationProblem::DoubledKey(list.name()))));
            }
            self.state.borrow_mut().list = list.name();
            let keep = (self.keep)(list, found);
            let there = object.next_value_seed(Entries { list, what: "a list of objects", keep, state: self.state })?;
            found[place] = match (there, keep) {
                (false, _) => Found::Nowhere,
                (true, false) => Found::Skipped,
                (true, true) => Found::Read,
            };
            let mut state = self.state.borrow_mut();
            (state.list, state.index) = ("", None);
        }
        Ok(found)
    }
}

/// A list of entries. The value is false for `null`.
struct Entries<'a, 'b> {
    list: List,
    what: &'static str,
    keep: bool,
    state: &'a RefCell<State<'b>>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        if !self.keep {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(true);
        }
        for index in 0.. {
            {
                let mut state = self.state.borrow_mut();
                (state.index, state.field) = (Some(index), "");
            }
            let Some(entry) = list.next_element_seed(Entry(self.state))? else { break };
            let mut state = self.state.borrow_mut();
            if let ControlFlow::Break(error) = (state.sink)(self.list, index, entry) {
                drop(state);
                return Err(stop(self.state, Failure::Sink(error)));
            }
        }
        Ok(true)
    }
}

/// One entry. Anything but an object becomes an entry that says so.
struct Entry<'a, 'b>(&'a RefCell<State<'b>>);

impl<'de> DeserializeSeed<'de> for Entry<'_, '_> {
    type Value = RawEntry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawEntry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// An entry that is no object.
fn no_object(value: &Scalar) -> RawEntry {
    RawEntry { not_an_object: Some(value.describe()), ..RawEntry::default() }
}

impl<'de> Visitor<'de> for Entry<'_, '_> {
    type Value = RawEntry;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<RawEntry, E> {
        Ok(no_object(&Scalar::Null))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<RawEntry, E> {
        Ok(no_object(&Scalar::Bool(flag)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<RawEntry, E> {
        Ok(no_object(&Scalar::Whole(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<RawEntry, E> {
        Ok(no_object(&Scalar::Number(number as f64)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<RawEntry, E> {
        Ok(no_object(&Scalar::Number(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<RawEntry, E> {
        Ok(no_object(&Scalar::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawEntry, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(no_object(&Scalar::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<RawEntry, A::Error> {
        let (mut entry, mut seen) = (RawEntry::default(), 0);
        while let Some(key) = object.next_key::<Key>()? {
            self.0.borrow_mut().field = key.name();
            entry.read(key, &mut seen, &mut object)?;
        }
        Ok(entry)
    }
}
