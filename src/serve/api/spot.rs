//! A value of a request together with its text, for those whose text counts: the model sees schemas and arguments as
//! they were written.

use crate::error::Result;
use crate::json::Node;
use crate::json::source::{items, members};

/// A value and its text.
#[derive(Clone, Debug)]
pub struct Spot<'a> {
    /// The value.
    pub node: Node<'a>,
    /// Its text, without spaces around it.
    pub text: &'a str,
}

impl<'a> Spot<'a> {
    /// As [`Node::get`].
    pub fn get(&self, name: &str) -> Result<Option<Spot<'a>>> {
        let Some(node) = self.node.get(name)? else {
            return Ok(None);
        };
        let text = members(self.text)?.into_iter().find(|(n, _)| n == name);
        Ok(text.map(|(_, text)| Spot { node, text }))
    }

    /// As [`Node::need`].
    pub fn need(&self, name: &str) -> Result<Spot<'a>> {
        let node = self.node.need(name)?;
        let found = self.get(name)?;
        found.ok_or_else(|| node.error("missing"))
    }

    /// As [`Node::items`].
    pub fn items(&self) -> Result<impl Iterator<Item = Spot<'a>>> {
        let nodes = self.node.items()?;
        let texts = items(self.text)?.into_iter();
        Ok(nodes.zip(texts).map(|(node, text)| Spot { node, text }))
    }
}
