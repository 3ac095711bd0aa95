//! Objects whose members are written between tags: texts as they are, other values as JSON.

use super::Schema;
use super::branches::Goal;
use super::build::Compiler;
use super::grammar::{Between, Builder, Member, Members, Node, NodeId, UNBOUNDED};
use super::spec::{Spec, kind};
use super::text::{Text, Written};
use crate::error::Result;
use crate::json::Value;

/// Names that a schema does not declare.
const NAMES: &str = "^[A-Za-z0-9_.-]{1,64}$";

/// Members at most.
const MAX_MEMBERS: u32 = 256;

/// How a member is written.
pub struct Tags<'a> {
    /// In front of its name.
    pub start: &'a [u8],
    /// Between name and value of a text.
    pub text: &'a [u8],
    /// Between name and value of all other kinds.
    pub json: &'a [u8],
    /// Behind the value.
    pub end: &'a [u8],
    /// What stands where there is no member.
    pub empty: &'a [u8],
    /// How a name is written.
    pub name: &'a dyn Fn(&str) -> String,
    /// What no value contains.
    pub mark: &'a str,
    /// Characters of a text without a bound of its own.
    pub longest: u32,
}

impl Tags<'_> {
    /// The members of an object that `schema` allows, between tags; without a schema any.
    ///
    /// Errors: as [`Schema::compile`], and `Limit` where the mark makes patterns too large.
    pub fn members(&self, schema: Option<&Schema>, builder: Builder) -> Result<(Builder, NodeId)> {
        let any = Value::Object(Vec::new());
        let root = schema.map_or(&any, |schema| &schema.value).root();
        let mut compiler = Compiler::new(root.clone(), builder, Some(self.mark))?;
        let mut branches = Vec::new();
        for spec in compiler.specs(&[root])? {
            if spec.kinds & kind::OBJECT != 0 && spec.constants.is_none() {
                branches.push(self.branch(&spec, &mut compiler)?);
            }
        }
        compiler.finish()?;
        let mut builder = compiler.builder;
        let all = builder.alt(branches)?;
        Ok((builder, all))
    }

    fn branch<'a>(&self, spec: &Spec<'a>, compiler: &mut Compiler<'a>) -> Result<NodeId> {
        let object = spec.object(&compiler.patterns)?;
        let mut members = Vec::new();
        for i in compiler.allowed(&object)? {
            let property = &object.properties[i];
            let name = compiler.builder.bytes((self.name)(property.name))?;
            members.push(Member {
                node: self.member(name, &property.goal, compiler)?,
                required: property.required,
            });
        }
        let declared: Vec<&str> = object.properties.iter().map(|p| p.name).collect();
        let plain = compiler.patterns.get(NAMES)?;
        let mut others = Vec::new();
        for (names, goal) in &object.others {
            let names = names.and(&plain)?.without(&declared)?;
            let text = Text::new(names, 0, UNBOUNDED, Written::Bare)?;
            let name = compiler.builder.add(Node::Text(text))?;
            others.push(self.member(name, goal, compiler)?);
        }
        let extra = match others.is_empty() {
            true => None,
            false => Some(compiler.builder.alt(others)?),
        };
        let nothing = compiler.style.nothing;
        let node = Node::Members(Members {
            members,
            extra,
            min: object.min,
            max: object.max.unwrap_or(MAX_MEMBERS).min(MAX_MEMBERS),
            between: Between {
                start: nothing,
                separator: nothing,
                end: nothing,
                empty: compiler.builder.bytes(self.empty)?,
            },
        });
        compiler.builder.add(node)
    }

    /// A member: its name, and its value as text or as JSON.
    fn member<'a>(
        &self,
        name: NodeId,
        goal: &Goal<'a>,
        compiler: &mut Compiler<'a>,
    ) -> Result<NodeId> {
        let (mut texts, mut values) = (Vec::new(), Vec::new());
        for spec in compiler.specs(goal)? {
            texts.extend(compiler.text_as_it_is(&spec, self.longest)?);
            values.extend(compiler.all_but_strings(&spec)?);
        }
        let builder = &mut compiler.builder;
        let (start, end) = (builder.bytes(self.start)?, builder.bytes(self.end)?);
        let mut any = Vec::new();
        for (tag, values) in [(self.text, texts), (self.json, values)] {
            if !values.is_empty() {
                let (tag, value) = (builder.bytes(tag)?, builder.alt(values)?);
                any.push(builder.seq([tag, value])?);
            }
        }
        let value = builder.alt(any)?;
        builder.seq([start, name, value, end])
    }
}
