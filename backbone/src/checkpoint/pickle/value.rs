//! The values of a pickle, in an arena.

use std::ops::Range;

use super::Kind;
use crate::checkpoint::element::ElementType;

/// Index of a value in its [`Heap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// The range of a string in the heap's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    start: u32,
    end: u32,
}

/// A value. Containers refer to other values by index.
#[derive(Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    /// A class or function, by name; it is never resolved.
    Global {
        module: Text,
        name: Text,
    },
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(Box<StorageRef>),
    Tensor(Box<TensorRef>),
    /// An instance of a foreign class, with its items if it is a kind of dictionary.
    Object {
        class: Id,
        items: Vec<(Id, Id)>,
    },
    /// A value whose contents were skipped.
    Skipped(&'static str),
}

/// A flat array of elements in another part of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StorageRef {
    /// The name of the storage in the file.
    pub key: String,
    /// Type of the elements.
    pub element: ElementType,
    /// Number of elements.
    pub elements: u64,
    /// The range of elements: part of the storage for the views in legacy files, otherwise all of it.
    pub view: Range64,
}

/// A half-open range; `std::ops::Range` does not implement `Ord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range64 {
    /// The first element.
    pub start: u64,
    /// One past the last element.
    pub end: u64,
}

/// A strided view of a storage, not yet checked against the storage.
#[derive(Clone, Debug)]
pub(crate) struct TensorRef {
    /// The storage of the elements.
    pub storage: StorageRef,
    /// First element, relative to the storage's view.
    pub offset: u64,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Stride of every dimension, in elements.
    pub strides: Vec<u64>,
}

/// All values of a pickle and the text of its strings.
#[derive(Default)]
pub(crate) struct Heap {
    values: Vec<Value>,
    text: String,
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Global { .. } => "class",
            Self::Tuple(_) => "tuple",
            Self::List(_) => "list",
            Self::Dict(_) => "dict",
            Self::Storage(_) => "storage",
            Self::Tensor(_) => "tensor",
            Self::Object { .. } => "object",
            Self::Skipped(what) => what,
        }
    }
}

impl Heap {
    pub(super) fn add(&mut self, value: Value, limit: usize) -> Result<Id, Kind> {
        let id = u32::try_from(self.values.len()).ok().filter(|id| (*id as usize) < limit);
        let id = id.ok_or(Kind::Limit { what: "objects", limit })?;
        self.values.push(value);
        Ok(Id(id))
    }

    pub(super) fn add_text(&mut self, text: &str, limit: usize) -> Result<Text, Kind> {
        let start = self.text.len();
        let end = start.saturating_add(text.len());
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(first), Ok(last)) if end <= limit => {
                self.text.push_str(text);
                Ok(Text { start: first, end: last })
            }
            _ => Err(Kind::Limit { what: "bytes of text", limit }),
        }
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Value {
        // Only `add` makes indices, and values are never removed.
        &mut self.values[id.0 as usize]
    }

    /// The value at `id`.
    pub(crate) fn get(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    fn str(&self, text: Text) -> &str {
        self.text.get(Range { start: text.start as usize, end: text.end as usize }).unwrap_or_default()
    }

    /// The value at `id` if it is a string.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(self.str(*text)),
            _ => None,
        }
    }

    /// Module and name of the value at `id` if it is a global.
    pub(crate) fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.get(id) {
            Value::Global { module, name } => Some((self.str(*module), self.str(*name))),
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub(crate) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The items of a dictionary or of a foreign object that has items.
    pub(crate) fn mapping(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) | Value::Object { items, .. } => Some(items),
            _ => None,
        }
    }

    /// All storages that the pickle describes.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &StorageRef> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(&**storage),
            _ => None,
        })
    }

    /// A description of the value: `dict`, or `object of yacs.config.CfgNode`.
    pub(crate) fn describe(&self, id: Id) -> String {
        match self.get(id) {
            Value::Object { class, .. } => match self.global(*class) {
                Some((module, name)) => format!("object of {module}.{name}"),
                None => "object".to_owned(),
            },
            other => other.kind().to_owned(),
        }
    }

    /// A number, flag or string as text.
    pub(crate) fn scalar(&self, id: Id) -> Option<String> {
        match self.get(id) {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(text) => Some(self.str(*text).to_owned()),
            _ => None,
        }
    }

    fn unsigned(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    fn dimensions(&self, id: Id) -> Option<Vec<u64>> {
        self.sequence(id)?.iter().map(|item| self.unsigned(*item)).collect()
    }

    /// The argument of `OrderedDict(…)`: nothing, or a list of pairs.
    pub(super) fn ordered_dict(&self, arguments: Id) -> Vec<(Id, Id)> {
        let pairs = self.sequence(arguments).and_then(|arguments| self.sequence(*arguments.first()?)).unwrap_or_default();
        let pair = |id: &Id| match self.sequence(*id)? {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        pairs.iter().filter_map(pair).collect()
    }

    /// A persistent id: `("storage", type, key, location, elements)`, in legacy files with a sixth entry `(key, offset, elements)` for
    /// a view. Other persistent ids are opaque.
    pub(super) fn storage(&self, id: Id) -> Result<Value, Kind> {
        let Some([tag, class, key, _location, elements, rest @ ..]) = self.sequence(id) else {
            return Ok(Value::Skipped("persistent object"));
        };
        if self.text(*tag) != Some("storage") {
            return Ok(Value::Skipped("persistent object"));
        }
        let malformed = Kind::Malformed("description of a storage");
        let (Some((_, class)), Some(key), Some(elements)) = (self.global(*class), self.text(*key), self.unsigned(*elements)) else {
            return Err(malformed);
        };
        let view = match rest.first().map(|view| self.sequence(*view)) {
            None | Some(None) => Range64 { start: 0, end: elements },
            Some(Some([_, offset, length])) => match (self.unsigned(*offset), self.unsigned(*length)) {
                (Some(start), Some(length)) => match start.checked_add(length) {
                    Some(end) if end <= elements => Range64 { start, end },
                    _ => return Err(malformed),
                },
                _ => return Err(malformed),
            },
            Some(Some(_)) => return Err(malformed),
        };
        let element = ElementType::of_storage(class);
        Ok(Value::Storage(Box::new(StorageRef { key: key.to_owned(), element, elements, view })))
    }

    /// The arguments of `_rebuild_tensor_v2(storage, offset, size, stride, …)`; with `typed` those of v3, which name the element type.
    pub(super) fn tensor(&self, arguments: Id, typed: bool) -> Result<Value, Kind> {
        let malformed = Kind::Malformed("description of a tensor");
        let Some(arguments @ [storage, offset, shape, strides, ..]) = self.sequence(arguments) else {
            return Err(malformed);
        };
        let Value::Storage(storage) = self.get(*storage) else {
            return Err(malformed);
        };
        let (Some(offset), Some(shape), Some(strides)) = (self.unsigned(*offset), self.dimensions(*shape), self.dimensions(*strides))
        else {
            return Err(malformed);
        };
        if shape.len() != strides.len() || shape.len() > MAX_RANK {
            return Err(malformed);
        }
        let mut storage = StorageRef::clone(storage);
        if typed {
            let Some((_, name)) = arguments.get(6).and_then(|dtype| self.global(*dtype)) else {
                return Err(malformed);
            };
            storage = storage.retyped(ElementType::of_dtype(name)).ok_or(malformed)?;
        }
        Ok(Value::Tensor(Box::new(TensorRef { storage, offset, shape, strides })))
    }
}

/// PyTorch's limit for the dimensions of a tensor.
const MAX_RANK: usize = 64;

impl StorageRef {
    /// An untyped storage, whose size is in bytes, as a storage of `element`; `None` when the element's size does not divide it.
    fn retyped(self, element: ElementType) -> Option<Self> {
        if self.element != ElementType::Untyped {
            return Some(self);
        }
        let size = element.bytes()?;
        let in_elements = |bytes: u64| bytes.is_multiple_of(size).then_some(bytes / size);
        let view = Range64 { start: in_elements(self.view.start)?, end: in_elements(self.view.end)? };
        Some(Self { element, elements: in_elements(self.elements)?, view, key: self.key })
    }
}
