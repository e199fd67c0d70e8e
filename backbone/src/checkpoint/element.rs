//! Element types of stored tensors, and their conversion to float32.

use std::fmt;

use half::{bf16, f16};

/// Type of the elements of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ElementType {
    F32,
    F16,
    Bf16,
    F64,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Bytes; the tensor names their type.
    Untyped,
    /// Complex and quantised numbers: only their size in bytes is known.
    Opaque(u8),
    /// An unknown type.
    Unknown,
}

/// As PyTorch calls the type.
impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F64 => "float64",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
            Self::Opaque(_) => "complex or quantised",
            Self::Untyped | Self::Unknown => "unknown",
        })
    }
}

impl ElementType {
    /// From the name of a PyTorch storage class.
    pub(crate) fn of_storage(class: &str) -> Self {
        match class {
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::Bf16,
            "DoubleStorage" => Self::F64,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            "UntypedStorage" => Self::Untyped,
            "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => Self::Opaque(1),
            "QInt32Storage" => Self::Opaque(4),
            "ComplexFloatStorage" => Self::Opaque(8),
            "ComplexDoubleStorage" => Self::Opaque(16),
            _ => Self::Unknown,
        }
    }

    /// From the name of a `torch.dtype`.
    pub(crate) fn of_dtype(name: &str) -> Self {
        match name {
            "float32" => Self::F32,
            "float16" => Self::F16,
            "bfloat16" => Self::Bf16,
            "float64" => Self::F64,
            "int64" => Self::I64,
            "int32" => Self::I32,
            "int16" => Self::I16,
            "int8" => Self::I8,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => Self::Unknown,
        }
    }

    /// Bytes of an element, where known.
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Self::I8 | Self::U8 | Self::Bool | Self::Untyped => Some(1),
            Self::F16 | Self::Bf16 | Self::I16 => Some(2),
            Self::F32 | Self::I32 => Some(4),
            Self::F64 | Self::I64 => Some(8),
            Self::Opaque(bytes) => Some(bytes.into()),
            Self::Unknown => None,
        }
    }

    /// The elements of `raw` as float32; `None` for types without such a meaning. Bytes beyond the last whole element are ignored.
    pub(crate) fn decode(self, raw: &[u8], big_endian: bool) -> Option<Vec<f32>> {
        Some(match self {
            Self::F32 => convert(raw, big_endian, f32::from_le_bytes),
            Self::F16 => convert(raw, big_endian, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => convert(raw, big_endian, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Self::F64 => convert(raw, big_endian, |bytes| f64::from_le_bytes(bytes) as f32),
            Self::I64 => convert(raw, big_endian, |bytes| i64::from_le_bytes(bytes) as f32),
            Self::I32 => convert(raw, big_endian, |bytes| i32::from_le_bytes(bytes) as f32),
            Self::I16 => convert(raw, big_endian, |bytes| f32::from(i16::from_le_bytes(bytes))),
            Self::I8 => convert(raw, big_endian, |bytes| f32::from(i8::from_le_bytes(bytes))),
            Self::U8 => convert(raw, big_endian, |[byte]: [u8; 1]| f32::from(byte)),
            Self::Bool => convert(raw, big_endian, |[byte]: [u8; 1]| f32::from(u8::from(byte != 0))),
            Self::Untyped | Self::Opaque(_) | Self::Unknown => return None,
        })
    }
}

fn convert<const N: usize>(raw: &[u8], big_endian: bool, element: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let chunks = raw.as_chunks::<N>().0.iter();
    if big_endian {
        chunks
            .map(|chunk| {
                let mut chunk = *chunk;
                chunk.reverse();
                element(chunk)
            })
            .collect()
    } else {
        chunks.map(|chunk| element(*chunk)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_convert_in_both_byte_orders() {
        let expected = vec![1.0, 2.0];
        let cases: [(ElementType, Vec<u8>); 8] = [
            (ElementType::F32, [1.0_f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
            (ElementType::F64, [1.0_f64, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
            (ElementType::F16, [1.0_f32, 2.0].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
            (ElementType::Bf16, [1.0_f32, 2.0].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
            (ElementType::I64, [1_i64, 2].iter().flat_map(|v| v.to_le_bytes()).collect()),
            (ElementType::I32, [1_i32, 2].iter().flat_map(|v| v.to_le_bytes()).collect()),
            (ElementType::I16, [1_i16, 2].iter().flat_map(|v| v.to_le_bytes()).collect()),
            (ElementType::U8, vec![1, 2]),
        ];
        for (element, little) in cases {
            let size = element.bytes().unwrap() as usize;
            let big: Vec<u8> = little.chunks(size).flat_map(|chunk| chunk.iter().rev().copied()).collect();
            assert_eq!(element.decode(&little, false).unwrap(), expected, "{element:?}");
            assert_eq!(element.decode(&big, true).unwrap(), expected, "{element:?}");
        }
        assert_eq!(ElementType::I8.decode(&[0xff, 2], false).unwrap(), [-1.0, 2.0]);
        assert_eq!(ElementType::Bool.decode(&[0, 7], false).unwrap(), [0.0, 1.0]);
        assert_eq!(ElementType::Opaque(8).decode(&[0; 8], false), None);
    }
}
