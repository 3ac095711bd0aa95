//! Metadata values and how they are read.

use super::LIMITS;
use super::cursor::Cursor;
use crate::error::{Error, Result};

/// A metadata value; the widths of the file are widened to 64 bits.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32 or u64.
    Uint(u64),
    /// i8, i16, i32 or i64.
    Int(i64),
    /// f32 or f64.
    Float(f64),
    /// A byte that is 0 or 1.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Array of unsigned integers.
    Uints(Vec<u64>),
    /// Array of signed integers.
    Ints(Vec<i64>),
    /// Array of floating-point numbers.
    Floats(Vec<f64>),
    /// Array of bools.
    Bools(Vec<bool>),
    /// Array of texts.
    Strings(Vec<String>),
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Uint(_) => "an unsigned integer",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Uints(_) => "an array of unsigned integers",
            Value::Ints(_) => "an array of integers",
            Value::Floats(_) => "an array of numbers",
            Value::Bools(_) => "an array of bools",
            Value::Strings(_) => "an array of strings",
        }
    }

    /// The value on one line: long texts are cut, arrays show their first elements and their length.
    pub fn summary(&self) -> String {
        fn list<T: std::fmt::Debug>(values: &[T]) -> String {
            let shown: Vec<_> = values.iter().take(8).map(|v| format!("{v:?}")).collect();
            let more = if values.len() > shown.len() {
                ", ..."
            } else {
                ""
            };
            format!("[{}{more}] {} elements", shown.join(", "), values.len())
        }
        match self {
            Value::Uint(v) => v.to_string(),
            Value::Int(v) => v.to_string(),
            // Most stand in the file as f32: 1e-6 and not its 16 digits.
            Value::Float(v) if f64::from(*v as f32) == *v => format!("{:?}", *v as f32),
            Value::Float(v) => format!("{v:?}"),
            Value::Bool(v) => v.to_string(),
            Value::String(v) if v.chars().count() > 60 => {
                let shown: String = v.chars().take(57).collect();
                format!("{shown:?}... {} bytes", v.len())
            }
            Value::String(v) => format!("{v:?}"),
            Value::Uints(v) => list(v),
            Value::Ints(v) => list(v),
            Value::Floats(v) => list(v),
            Value::Bools(v) => list(v),
            Value::Strings(v) => list(v),
        }
    }

    /// The whole number, when it is one in any integer type and fits `T`.
    pub fn as_int<T: TryFrom<u64> + TryFrom<i64>>(&self) -> Option<T> {
        match self {
            Value::Uint(v) => T::try_from(*v).ok(),
            Value::Int(v) => T::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The number, when it is one in any numeric type; rounded to f32.
    pub fn as_f32(&self) -> Option<f32> {
        match self {
            Value::Uint(v) => Some(*v as f32),
            Value::Int(v) => Some(*v as f32),
            Value::Float(v) => Some(*v as f32),
            _ => None,
        }
    }

    /// The elements of an integer array, when each fits `T`.
    pub fn as_ints<T: TryFrom<u64> + TryFrom<i64>>(&self) -> Option<Vec<T>> {
        match self {
            Value::Uints(v) => v.iter().map(|v| T::try_from(*v).ok()).collect(),
            Value::Ints(v) => v.iter().map(|v| T::try_from(*v).ok()).collect(),
            _ => None,
        }
    }

    /// The elements of a numeric array, rounded to f32.
    pub fn as_f32s(&self) -> Option<Vec<f32>> {
        match self {
            Value::Uints(v) => Some(v.iter().map(|v| *v as f32).collect()),
            Value::Ints(v) => Some(v.iter().map(|v| *v as f32).collect()),
            Value::Floats(v) => Some(v.iter().map(|v| *v as f32).collect()),
            _ => None,
        }
    }

    /// Reads the value that follows; `budget` is the memory that values may still take, in bytes.
    pub(super) fn read(cursor: &mut Cursor, budget: &mut u64) -> Result<Value> {
        let id = cursor.u32("value type")?;
        if id == ARRAY {
            return read_array(cursor, budget);
        }
        Ok(match Scalar::from_id(id)? {
            Scalar::Uint(n) => Value::Uint(uint(cursor.take(n, "value")?)),
            Scalar::Int(n) => Value::Int(int(cursor.take(n, "value")?)),
            Scalar::Float(n) => Value::Float(float(cursor.take(n, "value")?)),
            Scalar::Bool => Value::Bool(bool(cursor.take(1, "value")?)?),
            Scalar::String => Value::String(string(cursor, budget)?),
        })
    }
}

/// The type id of an array.
const ARRAY: u32 = 9;

/// A type other than an array, with its bytes in the file.
enum Scalar {
    Uint(u64),
    Int(u64),
    Float(u64),
    Bool,
    String,
}

impl Scalar {
    /// Source: the GGUF format document, metadata value types.
    fn from_id(id: u32) -> Result<Scalar> {
        Ok(match id {
            0 => Scalar::Uint(1),
            1 => Scalar::Int(1),
            2 => Scalar::Uint(2),
            3 => Scalar::Int(2),
            4 => Scalar::Uint(4),
            5 => Scalar::Int(4),
            6 => Scalar::Float(4),
            7 => Scalar::Bool,
            8 => Scalar::String,
            10 => Scalar::Uint(8),
            11 => Scalar::Int(8),
            12 => Scalar::Float(8),
            _ => return Err(Error::format(format!("value type {id} does not exist"))),
        })
    }
}

fn read_array(cursor: &mut Cursor, budget: &mut u64) -> Result<Value> {
    let id = cursor.u32("array type")?;
    if id == ARRAY {
        return Err(Error::unsupported("an array of arrays"));
    }
    let element = Scalar::from_id(id)?;
    let count = cursor.u64("array length")?;
    if count > LIMITS.array {
        return Err(Error::limit("array length", count, LIMITS.array));
    }
    // Bytes of an element: in the file at least, and in memory.
    let (stored, held) = match element {
        Scalar::Uint(n) | Scalar::Int(n) | Scalar::Float(n) => (n, 8),
        Scalar::Bool => (1, 1),
        Scalar::String => (8, STRING_BYTES),
    };
    cursor.require(count * stored, "array")?; // no overflow: `count` is bounded
    spend(budget, count * held)?;
    Ok(match element {
        Scalar::Uint(n) => {
            let bytes = cursor.take(count * n, "array")?;
            Value::Uints(bytes.chunks_exact(n as usize).map(uint).collect())
        }
        Scalar::Int(n) => {
            let bytes = cursor.take(count * n, "array")?;
            Value::Ints(bytes.chunks_exact(n as usize).map(int).collect())
        }
        Scalar::Float(n) => {
            let bytes = cursor.take(count * n, "array")?;
            Value::Floats(bytes.chunks_exact(n as usize).map(float).collect())
        }
        Scalar::Bool => {
            let bytes = cursor.take(count, "array")?;
            Value::Bools(bytes.chunks_exact(1).map(bool).collect::<Result<_>>()?)
        }
        Scalar::String => {
            let mut strings = Vec::with_capacity(count as usize);
            for _ in 0..count {
                strings.push(string(cursor, budget)?);
            }
            Value::Strings(strings)
        }
    })
}

/// What an empty string in an array takes.
const STRING_BYTES: u64 = size_of::<String>() as u64;

fn string(cursor: &mut Cursor, budget: &mut u64) -> Result<String> {
    let text = cursor.string(LIMITS.string, "string")?;
    spend(budget, text.len() as u64)?;
    Ok(text)
}

/// Takes `bytes` from what values may hold in memory.
fn spend(budget: &mut u64, bytes: u64) -> Result<()> {
    *budget = budget
        .checked_sub(bytes)
        .ok_or_else(|| Error::limit("memory of the metadata", "", LIMITS.metadata_bytes))?;
    Ok(())
}

/// A little-endian number of 1 to 8 bytes, in the low bytes of the result.
fn low_bytes(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn uint(bytes: &[u8]) -> u64 {
    low_bytes(bytes)
}

fn int(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len() as u32;
    (low_bytes(bytes) << unused) as i64 >> unused
}

fn float(bytes: &[u8]) -> f64 {
    match bytes.len() {
        4 => f64::from(f32::from_bits(low_bytes(bytes) as u32)),
        _ => f64::from_bits(low_bytes(bytes)),
    }
}

fn bool(bytes: &[u8]) -> Result<bool> {
    match low_bytes(bytes) {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::format(format!("bool {other}, expected 0 or 1"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width() {
        assert_eq!(uint(&[0xff]), 255);
        assert_eq!(uint(&[1, 2, 0, 0]), 513);
        assert_eq!(uint(&[0xff; 8]), u64::MAX);
        assert_eq!(int(&[0xff]), -1);
        assert_eq!(int(&[0xfe, 0xff]), -2);
        assert_eq!(int(&i64::MIN.to_le_bytes()), i64::MIN);
        assert_eq!(int(&7i32.to_le_bytes()), 7);
        assert_eq!(float(&1.5f32.to_le_bytes()), 1.5);
        assert_eq!(float(&(-1e300f64).to_le_bytes()), -1e300);
    }

    #[test]
    fn integers_are_liberal_in_type_and_strict_in_range() {
        assert_eq!(Value::Int(5).as_int::<u32>(), Some(5));
        assert_eq!(Value::Int(-5).as_int::<u32>(), None);
        assert_eq!(Value::Uint(1 << 32).as_int::<u32>(), None);
        assert_eq!(Value::Float(5.0).as_int::<u32>(), None);
        assert_eq!(Value::Int(5).as_f32(), Some(5.0));
        assert_eq!(Value::Ints(vec![1, -1]).as_ints::<u32>(), None);
        assert_eq!(Value::Uints(vec![1, 2]).as_f32s(), Some(vec![1.0, 2.0]));
    }
}
