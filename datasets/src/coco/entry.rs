//! The entries of COCO's lists as they stand in the file: any valid JSON is read, and [`judge`](super::judge) says what is wrong with it.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::segmentation::RawSegmentation;

/// A JSON value of which only a scalar is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Scalar {
    /// The key is not there.
    #[default]
    Missing,
    Null,
    Bool(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    List,
    Object,
}

/// Floats beyond this size may not be the whole number that was meant.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

impl Scalar {
    /// Whether there is no value.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing | Self::Null)
    }

    /// A whole number: an integer, a float without a fraction, or the text of one of them.
    pub(super) fn whole(&self) -> Option<i64> {
        match self {
            Self::Whole(number) => Some(*number),
            Self::Number(number) if number.fract() == 0.0 && number.abs() <= MOST_EXACT => Some(*number as i64),
            Self::Text(text) => text.trim().parse().ok().or_else(|| Self::Number(text.trim().parse().ok()?).whole()),
            _ => None,
        }
    }

    /// A number; texts are none.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Whole(number) => Some(*number as f64),
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// What the value is, for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Missing => "missing".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Bool(flag) => flag.to_string(),
            Self::Whole(number) => format!("the number {number}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Text(text) => {
                let short: String = text.chars().take(24).collect();
                format!("the text \"{}{}\"", vmamba_files::printable(&short), if short.len() < text.len() { "…" } else { "" })
            }
            Self::List => "a list".to_owned(),
            Self::Object => "an object".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(flag))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Whole(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(i64::try_from(number).map_or(Scalar::Number(number as f64), Scalar::Whole))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Scalar, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Object)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// `bbox` as it stands in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum RawBox {
    #[default]
    Missing,
    /// The first four numbers, and how many there are.
    Numbers([f64; 4], usize),
    /// Something else, described.
    Other(String),
}

impl<'de> Deserialize<'de> for RawBox {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = RawBox;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<RawBox, E> {
                Ok(RawBox::Missing)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<RawBox, E> {
                Ok(RawBox::Other(Scalar::Bool(flag).describe()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<RawBox, E> {
                Ok(RawBox::Other(Scalar::Whole(number).describe()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<RawBox, E> {
                Ok(RawBox::Other(Scalar::Number(number as f64).describe()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<RawBox, E> {
                Ok(RawBox::Other(Scalar::Number(number).describe()))
            }

            fn visit_str<E>(self, text: &str) -> Result<RawBox, E> {
                Ok(RawBox::Other(Scalar::Text(text.to_owned()).describe()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawBox, A::Error> {
                let (mut values, mut count, mut other) = ([0.0; 4], 0, None);
                while let Some(value) = list.next_element::<Scalar>()? {
                    match value.number() {
                        Some(number) => values.iter_mut().skip(count).take(1).for_each(|place| *place = number),
                        None => other = other.or_else(|| Some(format!("a list with {} at place {count}", value.describe()))),
                    }
                    count += 1;
                }
                Ok(other.map_or(RawBox::Numbers(values, count), RawBox::Other))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<RawBox, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(RawBox::Other(Scalar::Object.describe()))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

macro_rules! entry {
    ($($(#[$attribute:meta])* $field:ident: $kind:ty = $key:ident,)+) => {
        /// The keys that are read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        pub(super) enum Key {
            $($key,)+
            #[serde(other)]
            Other,
        }

        impl Key {
            /// The key as it is written; empty for keys that are not read.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$key => stringify!($field),)+
                    Self::Other => "",
                }
            }
        }

        /// An image, a category, an annotation or a result.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct RawEntry {
            $($(#[$attribute])* pub(super) $field: $kind,)+
            /// The first key that occurs twice. Its first value is kept.
            pub(super) doubled: Option<&'static str>,
            /// What the entry is, if it is no object.
            pub(super) not_an_object: Option<String>,
        }

        impl RawEntry {
            /// Reads the value of `key`.
            pub(super) fn read<'de, A: MapAccess<'de>>(&mut self, key: Key, seen: &mut u32, object: &mut A) -> Result<(), A::Error> {
                let bit = 1 << key as u32;
                if key != Key::Other && *seen & bit != 0 {
                    self.doubled.get_or_insert(key.name());
                    return object.next_value::<IgnoredAny>().map(|_| ());
                }
                *seen |= bit;
                match key {
                    $(Key::$key => self.$field = object.next_value()?,)+
                    Key::Other => { object.next_value::<IgnoredAny>()?; }
                }
                Ok(())
            }
        }
    };
}

entry! {
    id: Scalar = Id,
    image_id: Scalar = ImageId,
    category_id: Scalar = CategoryId,
    file_name: Scalar = FileName,
    height: Scalar = Height,
    width: Scalar = Width,
    name: Scalar = Name,
    supercategory: Scalar = Supercategory,
    bbox: RawBox = Bbox,
    area: Scalar = Area,
    score: Scalar = Score,
    iscrowd: Scalar = Iscrowd,
    segmentation: RawSegmentation = Segmentation,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_numbers_however_they_are_written() {
        let whole = |text: &str| serde_json::from_str::<Scalar>(text).unwrap().whole();
        for (text, expected) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("\"7\"", Some(7)),
            ("\" 7.0 \"", Some(7)),
            ("-3", Some(-3)),
            ("7.5", None),
            ("\"7.5\"", None),
            ("1e300", None),
            ("18446744073709551615", None),
            ("\"seven\"", None),
            ("\"\"", None),
            ("true", None),
            ("[7]", None),
            ("{}", None),
            ("null", None),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }
}
