//! Calls that an answer is held to: the markup of `super::dsml` as a grammar.

use super::dsml;
use crate::error::{Error, Result};
use crate::schema::Schema;
use crate::schema::grammar::{Between, Builder, Grammar, List, Node, UNBOUNDED};
use crate::schema::tags::Tags;
use std::sync::Arc;

/// Calls in one block; what reads them takes no more.
const MAX_CALLS: u32 = 128;

/// What makes a tag one of the markup. Real vocabularies have it as a token.
pub const MARK: &str = "｜DSML｜";

/// Characters of a text value where the mark is no token. A model of such a vocabulary does not know the markup; this ends
/// what it would never end.
const LONGEST_UNMARKED: u32 = 256;

/// A blank line stands between reasoning or text and calls.
const BLANK_LINE: &str = "\n\n";

/// How tools are called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallForm {
    /// The tools that may be called, and the schemas of their parameters; without one only the markup is held.
    pub tools: Vec<(String, Option<Arc<Schema>>)>,
    /// The answer must be calls; without, it is free until it opens them.
    pub required: bool,
    /// Several calls may come; without, one.
    pub parallel: bool,
}

/// With what calls begin; `mark` stands for the mark.
pub fn opening(mark: &[u8]) -> Vec<u8> {
    [b"<", mark].concat()
}

impl CallForm {
    /// The grammar of the calls, with `mark` where a tag has its mark.
    ///
    /// Errors: `Usage` without tools; as [`Schema::compile`].
    pub fn grammar(&self, mark: &[u8]) -> Result<Grammar> {
        if self.tools.is_empty() {
            return Err(Error::usage(
                "found no tool, expected one that may be called",
            ));
        }
        let marked = |text: &str| {
            let pieces: Vec<&[u8]> = text.split(MARK).map(str::as_bytes).collect();
            pieces.join(mark)
        };
        let end_parameter = format!("{}\n", dsml::END_PARAMETER);
        let (start, text) = (marked(dsml::PARAMETER), marked(dsml::TEXT_VALUE));
        let (json, end) = (marked(dsml::JSON_VALUE), marked(&end_parameter));
        let tags = Tags {
            start: &start,
            text: &text,
            json: &json,
            end: &end,
            empty: b"\n",
            name: &|name| dsml::NAME_END.escape(name),
            mark: MARK,
            longest: match mark.len() {
                1 => UNBOUNDED,
                _ => LONGEST_UNMARKED,
            },
        };
        let mut builder = Builder::default();
        let mut any = Vec::new();
        for (name, schema) in &self.tools {
            let parameters;
            (builder, parameters) = tags.members(schema.as_deref(), builder)?;
            let name = dsml::NAME_END.escape(name);
            let open = format!("{}{name}{}", dsml::INVOKE, dsml::END_NAME);
            let open = builder.bytes(marked(&open))?;
            let close = builder.bytes(marked(dsml::END_INVOKE))?;
            any.push(builder.seq([open, parameters, close])?);
        }
        let call = builder.alt(any)?;
        let nothing = builder.bytes([])?;
        let calls = builder.add(Node::List(List {
            first: Vec::new(),
            rest: Some(call),
            min: 1,
            max: if self.parallel { MAX_CALLS } else { 1 },
            between: Between {
                start: nothing,
                separator: nothing,
                end: nothing,
                empty: nothing,
            },
            nests: false,
        }))?;
        let open = builder.bytes(marked(&format!("{}\n", dsml::BLOCK)))?;
        let close = builder.bytes(marked(dsml::END_BLOCK))?;
        let mut root = builder.seq([open, calls, close])?;
        if self.required {
            let blank = builder.bytes(BLANK_LINE)?;
            let blank = builder.optional(blank)?;
            root = builder.seq([blank, root])?;
        }
        builder.finish(root)
    }
}
