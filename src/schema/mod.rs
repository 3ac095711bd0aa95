//! JSON schemas that hold an answer: a schema becomes a grammar of bytes, and a machine tells which byte may follow.
//!
//! ```text
//! schema --branches--> lists of schemas without $ref, allOf, anyOf --spec--> what each says of every kind of value
//!        --build--> grammar of bytes (texts as automata, numbers as ranges of digits) --machine--> states
//! ```
//!
//! | keyword | what is done with it |
//! |---|---|
//! | `type`, `enum`, `const`, `nullable` | held |
//! | `properties`, `required` | held; members come in the order of the schema |
//! | `additionalProperties` | held; other members come last. Without it a schema that declares members means these only |
//! | `patternProperties`, `propertyNames`, `minProperties`, `maxProperties` | held, with up to four patterns |
//! | `items`, `prefixItems`, `additionalItems`, `minItems`, `maxItems` | held |
//! | `minLength`, `maxLength`, `pattern` | held; what patterns may be made of tells [`regex`] |
//! | `format` | held for dates, times, durations, `uuid`, `email`, `hostname`, addresses, `uri`; warned of for others |
//! | `minimum`, `maximum`, `exclusive...`, `multipleOf` | held, with 15 digits |
//! | `allOf`, `anyOf`, `$ref`, `$defs`, `definitions` | held |
//! | `oneOf` | held as `anyOf`; warned of where its branches may overlap |
//! | `uniqueItems` | not held, warned of |
//! | `not` | held for `{}`, `true` and `false`; else refused |
//! | `unevaluatedProperties` | held on the outermost schema of a value; else refused |
//! | `if`, `then`, `else`, `contains`, `dependent...`, `unevaluatedItems`, `$dynamicRef` | refused |
//! | all others | say nothing about what is valid |
//!
//! A schema without `type` whose keywords speak about one kind of value means that kind. What is written is always valid by
//! the schema; not all that is valid can be written.

mod branches;
mod build;
pub mod decimal;
pub mod dfa;
mod formats;
pub mod grammar;
pub mod machine;
mod patterns;
pub mod regex;
mod spec;
pub mod tags;
pub mod text;
mod values;

use crate::error::Result;
use crate::json::{LIMITS, Limits, Value};
use build::Compiler;
use grammar::{Builder, Grammar};
use std::sync::Arc;

/// Bounds on the text of a schema.
const TEXT_LIMITS: Limits = Limits {
    bytes: 1 << 18,
    value_bytes: 16 << 20,
    ..LIMITS
};

/// A schema, understood. Two are the same when their texts say the same.
#[derive(Clone, Debug)]
pub struct Schema {
    value: Value,
    grammar: Arc<Grammar>,
}

impl PartialEq for Schema {
    fn eq(&self, other: &Schema) -> bool {
        self.value == other.value
    }
}

impl Schema {
    /// Understands the text of a schema, and tells what of it is not held.
    ///
    /// Errors, with the place in the schema: `Format` for what is no schema, or one that no value fits; `Unsupported` for a
    /// keyword that cannot be held; `Limit`.
    pub fn compile(text: &str) -> Result<(Schema, Vec<String>)> {
        let value = Value::read(text.as_bytes(), &TEXT_LIMITS)?;
        let mut compiler = Compiler::new(value.root(), Builder::default(), None)?;
        let root = compiler.value(&[value.root()])?;
        compiler.finish()?;
        let warnings = std::mem::take(&mut compiler.branches.warnings);
        let grammar = compiler.builder.finish(root)?;
        let grammar = Arc::new(grammar);
        Ok((Schema { value, grammar }, warnings))
    }

    /// Any JSON, or any object.
    ///
    /// Errors: none that can come; they would be those of [`Schema::compile`].
    pub fn json(object: bool) -> Result<Schema> {
        let text = if object {
            "{\"type\":\"object\"}"
        } else {
            "true"
        };
        Ok(Schema::compile(text)?.0)
    }

    /// The grammar of the JSON that it allows.
    pub fn grammar(&self) -> Arc<Grammar> {
        self.grammar.clone()
    }
}
