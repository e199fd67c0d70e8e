//! The field `segmentation`, in every form that tools write.

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use vmamba_types::{Rle, Segmentation};

use super::entry::Scalar;
use crate::error::AnnotationProblem;

/// `segmentation` as it stands in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum RawSegmentation {
    /// There is no mask: the key is not there, null, or an empty list.
    #[default]
    None,
    Polygons(Vec<Vec<f64>>),
    Runs {
        size: [usize; 2],
        counts: Vec<u32>,
    },
    Compressed {
        size: [usize; 2],
        counts: String,
    },
    /// Another form, described.
    Unknown(String),
}

impl RawSegmentation {
    /// The mask, if there is one.
    pub(super) fn read(self) -> Result<Option<Segmentation>, AnnotationProblem> {
        Ok(match self {
            Self::None => None,
            Self::Polygons(polygons) => Some(Segmentation::Polygons(polygons)),
            Self::Runs { size, counts } => Some(Segmentation::Rle(Rle { size, counts })),
            Self::Compressed { counts, .. } if is_python_bytes(&counts) => {
                let form = "run-length encoded, but `counts` is Python's text of a bytes object (b'…'), as str(counts) writes it instead of \
                            counts.decode()";
                return Err(AnnotationProblem::SegmentationForm(form.to_owned()));
            }
            Self::Compressed { size, counts } => Some(Segmentation::Rle(Rle::from_compressed(&counts, size)?)),
            Self::Unknown(form) => return Err(AnnotationProblem::SegmentationForm(form)),
        })
    }
}

fn is_python_bytes(counts: &str) -> bool {
    ["'", "\""]
        .iter()
        .any(|quote| counts.strip_prefix('b').is_some_and(|rest| rest.len() > 1 && rest.starts_with(quote) && rest.ends_with(quote)))
}

impl<'de> Deserialize<'de> for RawSegmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = RawSegmentation;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<RawSegmentation, E> {
        Ok(RawSegmentation::None)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<RawSegmentation, E> {
        Ok(RawSegmentation::Unknown(flag.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<RawSegmentation, E> {
        Ok(RawSegmentation::Unknown(Scalar::Whole(number).describe()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<RawSegmentation, E> {
        Ok(RawSegmentation::Unknown(format!("the number {number}")))
    }

    fn visit_f64<E>(self, number: f64) -> Result<RawSegmentation, E> {
        Ok(RawSegmentation::Unknown(Scalar::Number(number).describe()))
    }

    fn visit_str<E>(self, text: &str) -> Result<RawSegmentation, E> {
        let text = Scalar::Text(text.to_owned()).describe();
        Ok(RawSegmentation::Unknown(format!("{text}; runs stand in `counts` of an object, beside `size`")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawSegmentation, A::Error> {
        let (mut polygons, mut count) = (Vec::new(), 0_usize);
        while let Some(item) = list.next_element::<Item>()? {
            match item {
                Item::Numbers(polygon) => polygons.push(polygon),
                Item::Other(form) => {
                    while list.next_element::<IgnoredAny>()?.is_some() {}
                    let form = if count == 0 { form } else { format!("a list of polygons, but polygon {count} makes it {form}") };
                    return Ok(RawSegmentation::Unknown(form));
                }
            }
            count += 1;
        }
        if count >= 3 && polygons.iter().all(|polygon| polygon.len() == 2) {
            return Ok(RawSegmentation::Unknown("a list of points [[x, y], …]".to_owned()));
        }
        Ok(if count == 0 { RawSegmentation::None } else { RawSegmentation::Polygons(polygons) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<RawSegmentation, A::Error> {
        let (mut size, mut counts, mut keys) = (None, None, Vec::new());
        let mut doubled = None;
        while let Some(key) = object.next_key::<String>()? {
            match key.as_str() {
                "size" if size.is_none() => size = Some(object.next_value::<Size>()?),
                "counts" if counts.is_none() => counts = Some(object.next_value::<Counts>()?),
                "size" | "counts" => {
                    object.next_value::<IgnoredAny>()?;
                    doubled = Some(key.clone());
                }
                _ => drop(object.next_value::<IgnoredAny>()?),
            }
            // A few keys suffice for the message.
            if keys.len() < 4 {
                keys.push(format!("`{}`", vmamba_files::printable(&key)));
            }
        }
        if let Some(key) = doubled {
            return Ok(RawSegmentation::Unknown(format!("an object with the key `{key}` twice")));
        }
        Ok(match (size, counts) {
            (Some(Size(Ok(size))), Some(Counts::Runs(counts))) => RawSegmentation::Runs { size, counts },
            (Some(Size(Ok(size))), Some(Counts::Text(counts))) => RawSegmentation::Compressed { size, counts },
            (Some(Size(Err(found))), Some(_)) => {
                RawSegmentation::Unknown(format!("an object whose `size` is {found} instead of [height, width]"))
            }
            (Some(_), Some(Counts::Other(found))) => {
                RawSegmentation::Unknown(format!("an object whose `counts` is {found} instead of text or a list of runs"))
            }
            (None, None) if keys.is_empty() => RawSegmentation::Unknown("an empty object".to_owned()),
            _ => RawSegmentation::Unknown(format!("an object with the keys {}", keys.join(", "))),
        })
    }
}

/// An item of a list: a polygon, or the description of the form that its list has.
enum Item {
    Numbers(Vec<f64>),
    Other(String),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Item;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Item, E> {
                Ok(Item::Other("a list with null".to_owned()))
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Item, E> {
                Ok(Item::Other(format!("a list with {flag}")))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Item, E> {
                self.visit_f64(number as f64)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Item, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E>(self, _number: f64) -> Result<Item, E> {
                Ok(Item::Other("one list of numbers; a polygon stands inside of a list of polygons".to_owned()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                Ok(Item::Other(format!("a list with {}", Scalar::Text(text.to_owned()).describe())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
                let mut numbers = Vec::new();
                while let Some(value) = list.next_element::<Scalar>()? {
                    let Some(number) = value.number() else {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Item::Other(match value {
                            Scalar::List => "a list of lists of points [[[x, y], …]]".to_owned(),
                            Scalar::Object => "a list of lists of objects".to_owned(),
                            other => format!("a list of polygons with {} among the coordinates", other.describe()),
                        }));
                    };
                    numbers.push(number);
                }
                Ok(Item::Numbers(numbers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Item, A::Error> {
                let (mut runs, mut point) = (false, false);
                while let Some(key) = object.next_key::<String>()? {
                    object.next_value::<IgnoredAny>()?;
                    runs |= key == "counts";
                    point |= key == "x" || key == "y";
                }
                Ok(Item::Other(match (runs, point) {
                    (true, _) => "a list of run-length encoded masks; an annotation has one, without the list".to_owned(),
                    (_, true) => "a list of points as objects with `x` and `y`".to_owned(),
                    _ => "a list of objects".to_owned(),
                }))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// `size` of a run-length encoded mask, `[height, width]`, or what it is instead.
struct Size(Result<[usize; 2], String>);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let side = |value: &serde_json::Value| usize::try_from(serde_json::from_value::<Scalar>(value.clone()).ok()?.whole()?).ok();
        let sides = value.as_array().and_then(|sides| sides.iter().map(side).collect::<Option<Vec<_>>>());
        let text: String = value.to_string().chars().take(24).collect();
        Ok(Self(sides.and_then(|sides| sides.try_into().ok()).ok_or(text)))
    }
}

/// `counts` of a run-length encoded mask.
enum Counts {
    Text(String),
    Runs(Vec<u32>),
    Other(String),
}

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Counts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Counts, E> {
                Ok(Counts::Other("null".to_owned()))
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Counts, E> {
                Ok(Counts::Other(flag.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Counts, E> {
                Ok(Counts::Other(format!("the number {number}")))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Counts, E> {
                Ok(Counts::Other(format!("the number {number}")))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Counts, E> {
                Ok(Counts::Other(format!("the number {number}")))
            }

            fn visit_str<E>(self, text: &str) -> Result<Counts, E> {
                Ok(Counts::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Counts, A::Error> {
                let mut runs = Vec::new();
                while let Some(value) = list.next_element::<Scalar>()? {
                    match value.whole().and_then(|run| u32::try_from(run).ok()) {
                        Some(run) => runs.push(run),
                        None => {
                            while list.next_element::<IgnoredAny>()?.is_some() {}
                            return Ok(Counts::Other(format!("a list with {}", value.describe())));
                        }
                    }
                }
                Ok(Counts::Runs(runs))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Counts, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Counts::Other("an object".to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segmentation_of_an_unknown_form_is_named() {
        for (text, part) in [
            (r#""lo02j24L4M3L""#, "is the text \"lo02j24L4M3L\"; runs stand in `counts`"),
            (r#"[{"size": [9, 9], "counts": [81]}]"#, "a list of run-length encoded masks"),
            (r#"[[1, 2], [3, 4], [5, 6]]"#, "a list of points [[x, y], …]"),
            (r#"[[[1, 2], [3, 4], [5, 6]]]"#, "a list of lists of points"),
            (r#"[1, 2, 3, 4, 5, 6]"#, "one list of numbers; a polygon stands inside of a list of polygons"),
            (r#"[{"x": 1, "y": 2}]"#, "a list of points as objects"),
            (r#"[["1", 2, 3, 4, 5, 6]]"#, "the text \"1\" among the coordinates"),
            (r#"[[1, 2, 3, 4, 5, 6], null]"#, "polygon 1 makes it a list with null"),
            (r#"{"x": 1, "y": 2}"#, "an object with the keys `x`, `y`"),
            (r#"{"counts": [81]}"#, "an object with the keys `counts`"),
            (r#"{"size": [9], "counts": [81]}"#, "whose `size` is [9] instead of [height, width]"),
            (r#"{"size": [9, 9], "counts": [81.5]}"#, "whose `counts` is a list with the number 81.5"),
            (r#"{"size": [9, 9], "counts": {}}"#, "whose `counts` is an object"),
            (r#"{"size": [9, 9], "size": [9, 9], "counts": [81]}"#, "the key `size` twice"),
            (r#"{"size": [96, 96], "counts": "b'S:g0Y200'"}"#, "Python's text of a bytes object"),
            ("{}", "an empty object"),
            ("true", "is true"),
            ("7", "the number 7"),
            ("-7.5", "the number -7.5"),
        ] {
            let error = serde_json::from_str::<RawSegmentation>(text).unwrap().read().unwrap_err().to_string();
            assert!(error.starts_with("`segmentation` is ") && error.contains(part), "{text}: {error}");
        }
        for text in ["null", "[]"] {
            assert_eq!(serde_json::from_str::<RawSegmentation>(text).unwrap().read().unwrap(), None);
        }
        let runs = r#"{"size": ["9", 9.0], "counts": [0, 81.0]}"#;
        let expected = Segmentation::Rle(Rle { size: [9, 9], counts: vec![0, 81] });
        assert_eq!(serde_json::from_str::<RawSegmentation>(runs).unwrap().read().unwrap(), Some(expected));
    }
}
