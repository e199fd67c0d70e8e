//! A pickle reader that runs no code.
//!
//! A pickle is a program for a stack machine (Python's `pickletools` documents the opcodes). This machine follows the data flow of
//! all protocols (0 to 5) but makes no calls: a global is a name, and calling one gives an opaque object that discards the state it is
//! given. Only the few callables that describe tensors and ordered dictionaries are interpreted ([`Callable`]).
//!
//! All values live in one arena and refer to each other by index, so cycles and deep nesting need no recursion, neither to read nor to drop
//! them. Memory is linear in the bytes read and bounded by [`Limits`].

mod input;
mod value;

use std::collections::HashMap;
use std::io::{self, BufRead};

pub(crate) use input::Input;
pub(crate) use value::{Heap, Id, StorageRef, TensorRef, Value};

/// Where and why a pickle is malformed.
#[derive(Debug, thiserror::Error)]
#[error("pickle at byte {offset}: {kind}")]
pub struct PickleError {
    /// Position in the pickle, or in the file for the legacy format.
    pub offset: u64,
    kind: Kind,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    #[error("the data ends in the middle")]
    End,
    #[error("{0}")]
    Io(io::Error),
    #[error("0x{0:02x} is not an opcode")]
    UnknownOpcode(u8),
    #[error("opcode {0} is refused: nothing in a checkpoint needs it")]
    Refused(&'static str),
    #[error("protocol {0} is unknown (0 to 5 are supported)")]
    Protocol(u8),
    #[error("opcode 0x{0:02x} finds too few values on the stack")]
    Underflow(u8),
    #[error("opcode 0x{op:02x} cannot be applied to a {found}")]
    Type { op: u8, found: &'static str },
    #[error("memo entry {0} does not exist")]
    Memo(u64),
    #[error("more than {limit} {what}")]
    Limit { what: &'static str, limit: usize },
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Limits for what a pickle may build. A trainer's checkpoint has about 10^5 objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Objects created.
    pub objects: usize,
    /// References: a limit each for the stack, the memo, and all containers together.
    pub references: usize,
    /// Bytes of stored strings.
    pub text: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { objects: 8 << 20, references: 16 << 20, text: 256 << 20 }
    }
}

/// The object that a pickle describes.
pub(crate) struct Pickle {
    pub heap: Heap,
    pub root: Id,
}

/// Reads one pickle, including its STOP opcode.
pub(crate) fn read_pickle<R: BufRead>(input: &mut Input<R>, limits: Limits) -> Result<Pickle, PickleError> {
    let mut machine =
        Machine { input, limits, heap: Heap::default(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), references: 0 };
    let root = machine.run().map_err(|kind| PickleError { offset: machine.input.offset(), kind })?;
    Ok(Pickle { heap: machine.heap, root })
}

/// The callables that are interpreted.
#[derive(Clone, Copy, PartialEq)]
enum Callable {
    OrderedDict,
    /// `_rebuild_tensor(storage, offset, size, stride)`, and v2 with further arguments, which are ignored.
    Tensor,
    /// As `Tensor`, with an untyped storage and the element type as the seventh argument.
    TypedTensor,
    /// `_rebuild_parameter(data, …)`.
    Parameter,
    /// `_rebuild_from_type_v2(callable, type, arguments, state)`: tensor subclasses.
    FromType,
    Other,
}

struct Machine<'a, R> {
    input: &'a mut Input<R>,
    limits: Limits,
    heap: Heap,
    stack: Vec<Id>,
    /// Heights of the stack at its MARKs.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// References held by containers.
    references: usize,
}

impl<R: BufRead> Machine<'_, R> {
    fn run(&mut self) -> Result<Id, Kind> {
        loop {
            let op = self.input.byte()?;
            match op {
                b'.' => return self.pop(op),
                0x80 => match self.input.byte()? {
                    0..=5 => {}
                    other => return Err(Kind::Protocol(other)),
                },
                // FRAME is a length, which this reader does not need.
                0x95 => drop(self.input.array::<8>()?),
                b'(' => {
                    self.check("marks", self.marks.len())?;
                    self.marks.push(self.stack.len());
                }
                b'0' => {
                    // POP also removes a MARK.
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop(op)?;
                    }
                }
                b'1' => drop(self.pop_to_mark(op)?),
                b'2' => {
                    let top = self.top(op)?;
                    self.push(top)?;
                }
                b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => self.number(op)?,
                b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.string(op)?,
                b')' | b't' | 0x85..=0x87 | b']' | b'l' | b'}' | b'd' | 0x8f | 0x91 | b'a' | b'e' | b's' | b'u' | 0x90 => {
                    self.container(op)?;
                }
                b'p' | b'q' | b'r' | b'g' | b'h' | b'j' | 0x94 => self.memo(op)?,
                b'c' | 0x93 | b'P' | b'Q' | b'R' | b'i' | b'o' | 0x81 | 0x92 | b'b' => self.object(op)?,
                0x82 => return Err(Kind::Refused("EXT1")),
                0x83 => return Err(Kind::Refused("EXT2")),
                0x84 => return Err(Kind::Refused("EXT4")),
                0x97 => return Err(Kind::Refused("NEXT_BUFFER")),
                0x98 => return Err(Kind::Refused("READONLY_BUFFER")),
                other => return Err(Kind::UnknownOpcode(other)),
            }
        }
    }

    fn number(&mut self, op: u8) -> Result<(), Kind> {
        let value = match op {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.input.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.input.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.input.array()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.input.array()?)),
            b'F' => Value::Float(parse(&self.input.line()?, "float")?),
            // Protocols 0 and 1 write booleans as these two integers.
            b'I' => match self.input.line()?.as_str() {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                digits => Value::Int(parse(digits, "integer")?),
            },
            b'L' => Value::Int(parse(self.input.line()?.trim_end_matches('L'), "integer")?),
            0x8a => {
                let length = self.input.byte()?;
                self.long(length.into())?
            }
            _ => {
                let length = i32::from_le_bytes(self.input.array()?);
                self.long(u64::try_from(length).map_err(|_| Kind::Malformed("integer"))?)?
            }
        };
        self.create(value)
    }

    /// A two's complement integer of `length` bytes. Values of more than 16 bytes are skipped.
    fn long(&mut self, length: u64) -> Result<Value, Kind> {
        if length > 16 {
            self.input.skip(length)?;
            return Ok(Value::Skipped("long integer"));
        }
        let mut bytes = [0_u8; 16];
        let mut last = 0;
        for slot in bytes.iter_mut().take(length as usize) {
            last = self.input.byte()?;
            *slot = last;
        }
        if last & 0x80 != 0 {
            bytes.iter_mut().skip(length as usize).for_each(|byte| *byte = 0xff);
        }
        Ok(Value::Int(i128::from_le_bytes(bytes)))
    }

    fn string(&mut self, op: u8) -> Result<(), Kind> {
        let length = match op {
            b'S' | b'V' => {
                let line = self.input.line()?;
                let text = if op == b'S' { line.trim_matches(['\'', '"']) } else { line.as_str() };
                return self.create_text(text);
            }
            b'U' | 0x8c | b'C' => self.input.byte()?.into(),
            b'X' | b'T' | b'B' => u32::from_le_bytes(self.input.array()?).into(),
            _ => u64::from_le_bytes(self.input.array()?),
        };
        if matches!(op, b'B' | b'C' | 0x8e | 0x96) {
            self.input.skip(length)?;
            return self.create(Value::Skipped("byte string"));
        }
        match self.input.text(length)? {
            Some(text) => self.create_text(&text),
            None => self.create(Value::Skipped("long string")),
        }
    }

    fn container(&mut self, op: u8) -> Result<(), Kind> {
        match op {
            b')' => self.create(Value::Tuple(Vec::new())),
            b']' => self.create(Value::List(Vec::new())),
            b'}' => self.create(Value::Dict(Vec::new())),
            0x8f => self.create(Value::Skipped("set")),
            b't' => {
                let items = self.pop_to_mark(op)?;
                self.hold(items.len())?;
                self.create(Value::Tuple(items))
            }
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let mut items = (0..count).map(|_| self.pop(op)).collect::<Result<Vec<_>, _>>()?;
                items.reverse();
                self.hold(count)?;
                self.create(Value::Tuple(items))
            }
            b'l' => {
                let items = self.pop_to_mark(op)?;
                self.hold(items.len())?;
                self.create(Value::List(items))
            }
            b'd' => {
                let items = self.pop_to_mark(op)?;
                self.hold(items.len())?;
                self.create(Value::Dict(pairs(&items)?))
            }
            0x91 => {
                self.pop_to_mark(op)?;
                self.create(Value::Skipped("set"))
            }
            b'a' => {
                let item = self.pop(op)?;
                self.append(op, &[item])
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark(op)?;
                self.append(op, &items)
            }
            b's' => {
                let value = self.pop(op)?;
                let key = self.pop(op)?;
                self.set_items(op, &[key, value])
            }
            _ => {
                let items = self.pop_to_mark(op)?;
                self.set_items(op, &items)
            }
        }
    }

    /// APPEND, APPENDS, ADDITEMS. Items of foreign objects and sets are discarded.
    fn append(&mut self, op: u8, items: &[Id]) -> Result<(), Kind> {
        self.hold(items.len())?;
        let top = self.top(op)?;
        match self.heap.get_mut(top) {
            Value::List(list) => list.extend_from_slice(items),
            Value::Object { .. } | Value::Skipped(_) => {}
            other => return Err(Kind::Type { op, found: other.kind() }),
        }
        Ok(())
    }

    /// SETITEM, SETITEMS. Items of foreign objects are kept, as they may be subclasses of a dictionary.
    fn set_items(&mut self, op: u8, items: &[Id]) -> Result<(), Kind> {
        self.hold(items.len())?;
        let added = pairs(items)?;
        let top = self.top(op)?;
        match self.heap.get_mut(top) {
            Value::Dict(dict) => dict.extend(added),
            Value::Object { items, .. } => items.extend(added),
            Value::Skipped(_) => {}
            other => return Err(Kind::Type { op, found: other.kind() }),
        }
        Ok(())
    }

    fn memo(&mut self, op: u8) -> Result<(), Kind> {
        let index = match op {
            b'p' | b'g' => parse(&self.input.line()?, "memo index")?,
            b'q' | b'h' => self.input.byte()?.into(),
            0x94 => self.memo.len() as u64,
            _ => u32::from_le_bytes(self.input.array()?).into(),
        };
        if matches!(op, b'g' | b'h' | b'j') {
            let id = *self.memo.get(&index).ok_or(Kind::Memo(index))?;
            return self.push(id);
        }
        self.check("memo entries", self.memo.len())?;
        let top = self.top(op)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn object(&mut self, op: u8) -> Result<(), Kind> {
        match op {
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.create_global(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop(op)?, self.pop(op)?);
                let text = |id| self.heap.text(id).map(str::to_owned).ok_or(Kind::Malformed("name of a global"));
                let (name, module) = (text(name)?, text(module)?);
                self.create_global(&module, &name)
            }
            // Only the binary form has the tuple that describes a storage.
            b'P' => {
                self.input.line()?;
                self.create(Value::Skipped("persistent object"))
            }
            b'Q' => {
                let id = self.pop(op)?;
                let value = self.heap.storage(id)?;
                self.create(value)
            }
            b'R' | 0x81 => {
                let arguments = self.pop(op)?;
                let callable = self.pop(op)?;
                self.call(callable, arguments)
            }
            0x92 => {
                self.pop(op)?;
                let arguments = self.pop(op)?;
                let callable = self.pop(op)?;
                self.call(callable, arguments)
            }
            b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.pop_to_mark(op)?;
                self.create_global(&module, &name)?;
                let class = self.pop(op)?;
                self.create(Value::Object { class, items: Vec::new() })
            }
            b'o' => {
                let items = self.pop_to_mark(op)?;
                let class = *items.first().ok_or(Kind::Underflow(op))?;
                self.create(Value::Object { class, items: Vec::new() })
            }
            // BUILD: the state of an object, which holds no weights.
            _ => {
                self.pop(op)?;
                self.top(op).map(drop)
            }
        }
    }

    /// REDUCE and NEWOBJ. Unknown callables give an opaque object.
    fn call(&mut self, callable: Id, arguments: Id) -> Result<(), Kind> {
        let (callable, arguments) = match self.callable(callable) {
            // Unwrap one level, without recursion.
            Callable::FromType => match self.heap.sequence(arguments) {
                Some([inner, _, arguments, ..]) => (*inner, *arguments),
                _ => return Err(Kind::Malformed("tensor subclass")),
            },
            _ => (callable, arguments),
        };
        let value = match self.callable(callable) {
            Callable::OrderedDict => {
                let pairs = self.heap.ordered_dict(arguments);
                self.hold(2 * pairs.len())?;
                Value::Dict(pairs)
            }
            Callable::Tensor => self.heap.tensor(arguments, false)?,
            Callable::TypedTensor => self.heap.tensor(arguments, true)?,
            Callable::Parameter => match self.heap.sequence(arguments) {
                Some([data, ..]) => {
                    let data = *data;
                    return self.push(data);
                }
                _ => return Err(Kind::Malformed("parameter")),
            },
            Callable::FromType | Callable::Other => Value::Object { class: callable, items: Vec::new() },
        };
        self.create(value)
    }

    fn callable(&self, id: Id) -> Callable {
        match self.heap.global(id) {
            Some(("collections", "OrderedDict")) => Callable::OrderedDict,
            Some(("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2")) => Callable::Tensor,
            Some(("torch._utils", "_rebuild_tensor_v3")) => Callable::TypedTensor,
            Some(("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")) => Callable::Parameter,
            Some(("torch._tensor", "_rebuild_from_type_v2")) => Callable::FromType,
            _ => Callable::Other,
        }
    }

    fn create_global(&mut self, module: &str, name: &str) -> Result<(), Kind> {
        let module = self.heap.add_text(module, self.limits.text)?;
        let name = self.heap.add_text(name, self.limits.text)?;
        self.create(Value::Global { module, name })
    }

    fn create_text(&mut self, text: &str) -> Result<(), Kind> {
        let text = self.heap.add_text(text, self.limits.text)?;
        self.create(Value::Text(text))
    }

    fn create(&mut self, value: Value) -> Result<(), Kind> {
        let id = self.heap.add(value, self.limits.objects)?;
        self.push(id)
    }

    fn push(&mut self, id: Id) -> Result<(), Kind> {
        self.check("values on the stack", self.stack.len())?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self, op: u8) -> Result<Id, Kind> {
        let top = self.top(op)?;
        self.stack.pop();
        Ok(top)
    }

    /// The value on top of the stack; values below the last MARK are not accessible.
    fn top(&self, op: u8) -> Result<Id, Kind> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack.get(floor..).and_then(|reachable| reachable.last()).copied().ok_or(Kind::Underflow(op))
    }

    fn pop_to_mark(&mut self, op: u8) -> Result<Vec<Id>, Kind> {
        let mark = self.marks.pop().ok_or(Kind::Underflow(op))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// Counts references that are stored in a container.
    fn hold(&mut self, count: usize) -> Result<(), Kind> {
        self.references = self.references.saturating_add(count);
        self.check("references", self.references.saturating_sub(1))
    }

    fn check(&self, what: &'static str, count: usize) -> Result<(), Kind> {
        let limit = self.limits.references;
        if count >= limit { Err(Kind::Limit { what, limit }) } else { Ok(()) }
    }
}

/// `[key, value, key, value, …]` as pairs.
fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Kind> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err(Kind::Malformed("dictionary: a key without value")),
    }
}

fn parse<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, Kind> {
    text.trim().parse().map_err(|_| Kind::Malformed(what))
}

#[cfg(test)]
mod tests;
