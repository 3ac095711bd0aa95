//! Records as JSON objects: one list of fields serves writing and reading, so the two cannot differ.

use crate::error::{Context, Error, Result};
use crate::json::Value;

/// A thing with named fields.
pub trait Record: Clone + Default {
    /// Gives each field to `io` once, which writes it or reads it.
    ///
    /// Errors: only when reading; a field is missing or is something else.
    fn fields(&mut self, io: &mut Fields<'_>) -> Result<()>;
}

/// Where the fields of a record go to or come from.
pub enum Fields<'a> {
    /// They are written behind these.
    Write(Vec<(String, Value)>),
    /// They are read from these; what stands there besides is nobody's.
    Read(&'a [(String, Value)]),
}

impl Fields<'_> {
    /// Writes `value` under this name, or reads it.
    ///
    /// Errors: as [`Record::fields`].
    pub fn field<T: Json>(&mut self, name: &str, value: &mut T) -> Result<()> {
        match self {
            Fields::Write(members) => members.push((name.into(), value.to_json())),
            Fields::Read(members) => {
                let found = members.iter().find(|(n, _)| n == name);
                let (_, found) = found.ok_or_else(|| Error::format(format!("{name}: missing")))?;
                *value = T::from_json(found).context(|| name)?;
            }
        }
        Ok(())
    }
}

/// What can be the value of a field.
pub trait Json: Sized {
    /// As JSON.
    fn to_json(&self) -> Value;

    /// Back again.
    ///
    /// Errors: `Format`, with what was found and what was expected.
    fn from_json(value: &Value) -> Result<Self>;
}

impl Json for u64 {
    fn to_json(&self) -> Value {
        Value::Count(*self)
    }

    fn from_json(value: &Value) -> Result<u64> {
        match value {
            Value::Count(n) => Ok(*n),
            other => Err(other.wrong("whole number from 0")),
        }
    }
}

impl Json for bool {
    fn to_json(&self) -> Value {
        Value::Bool(*self)
    }

    fn from_json(value: &Value) -> Result<bool> {
        match value {
            Value::Bool(b) => Ok(*b),
            other => Err(other.wrong("boolean")),
        }
    }
}

impl Json for String {
    fn to_json(&self) -> Value {
        Value::Text(self.clone())
    }

    fn from_json(value: &Value) -> Result<String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            other => Err(other.wrong("string")),
        }
    }
}

/// `null` is what is not known.
impl<T: Json> Json for Option<T> {
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn from_json(value: &Value) -> Result<Option<T>> {
        match value {
            Value::Null => Ok(None),
            other => T::from_json(other).map(Some),
        }
    }
}

impl<T: Json> Json for Vec<T> {
    fn to_json(&self) -> Value {
        Value::List(self.iter().map(T::to_json).collect())
    }

    fn from_json(value: &Value) -> Result<Vec<T>> {
        let Value::List(items) = value else {
            return Err(value.wrong("array"));
        };
        let item = |(i, item)| T::from_json(item).context(|| format!("[{i}]"));
        items.iter().enumerate().map(item).collect()
    }
}

impl<T: Record> Json for T {
    fn to_json(&self) -> Value {
        let mut fields = Fields::Write(Vec::new());
        // Writing has no errors.
        let _ = self.clone().fields(&mut fields);
        match fields {
            Fields::Write(members) => Value::Object(members),
            Fields::Read(_) => Value::Null,
        }
    }

    fn from_json(value: &Value) -> Result<T> {
        let Value::Object(members) = value else {
            return Err(value.wrong("object"));
        };
        let mut record = T::default();
        record.fields(&mut Fields::Read(members))?;
        Ok(record)
    }
}
