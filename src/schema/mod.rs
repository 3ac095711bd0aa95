//! JSON schemas that hold an answer.

use crate::error::{Error, Result};
use crate::json::Value;
use crate::json::recogniser::Rules;

/// A schema, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    rules: Rules,
}

impl Schema {
    /// Understands the text of a schema, and tells what of it is not held.
    ///
    /// Errors: `Format` and `Unsupported`, with the place in the schema.
    pub fn compile(text: &str) -> Result<(Schema, Vec<String>)> {
        let value = Value::parse(text)?;
        let Value::Object(members) = &value else {
            return match value {
                Value::Bool(true) => Ok((
                    Schema {
                        rules: Rules::WRITTEN,
                    },
                    Vec::new(),
                )),
                other => Err(other.wrong("object")),
            };
        };
        let mut rules = Rules::WRITTEN;
        for (name, value) in members {
            match (name.as_str(), value) {
                ("type", Value::Text(kind)) if kind == "object" => rules = Rules::WRITTEN_OBJECT,
                ("title" | "description" | "$schema", _) => {}
                _ => return Err(Error::unsupported(format!("'{name}' is not supported"))),
            }
        }
        Ok((Schema { rules }, Vec::new()))
    }

    /// The nearest rules of any JSON.
    pub fn rules(&self) -> Rules {
        self.rules
    }
}
