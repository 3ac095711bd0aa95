//! One branch of a schema as a whole: what all its parts say about each kind of value.

use super::branches::{Branches, Goal, member, short, unsupported};
use super::dfa::Dfa;
use super::patterns::Patterns;
use super::{formats, values};
use crate::error::Result;
use crate::json::{Node, Value};
use std::rc::Rc;

/// Kinds of values, a bit each.
pub mod kind {
    #![allow(missing_docs)]
    pub const NULL: u8 = 1;
    pub const BOOL: u8 = 2;
    pub const WHOLE: u8 = 4;
    /// A number that is not whole.
    pub const BROKEN: u8 = 8;
    pub const TEXT: u8 = 16;
    pub const LIST: u8 = 32;
    pub const OBJECT: u8 = 64;
    pub const ALL: u8 = 127;
}

/// Keywords that only speak about one kind of value, which a schema without `type` is taken to mean.
const IMPLIED: [(u8, &[&str]); 4] = [
    (
        kind::OBJECT,
        &[
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
        ],
    ),
    (
        kind::LIST,
        &[
            "items",
            "prefixItems",
            "minItems",
            "maxItems",
            "uniqueItems",
        ],
    ),
    (kind::TEXT, &["minLength", "maxLength", "pattern"]),
    (
        kind::WHOLE | kind::BROKEN,
        &[
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ],
    ),
];

/// Keywords that change what is valid and cannot be held.
const UNSUPPORTED: [&str; 14] = [
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
    "disallow",
    "extends",
];

/// The largest number of characters, items or members that is counted.
const MAX_COUNT: u64 = 1 << 30;

/// A branch.
pub struct Spec<'a> {
    /// Which kinds of values are allowed.
    pub kinds: u8,
    /// The values that are allowed, if they are listed.
    pub constants: Option<Vec<Node<'a>>>,
    /// The parts, of which all hold.
    pub parts: Goal<'a>,
}

impl<'a> Spec<'a> {
    /// Reads the keywords of all parts; `alone` when the first part is the schema that all others came from.
    ///
    /// Errors: as [`super::Schema::compile`].
    pub fn read(parts: Goal<'a>, alone: bool, branches: &mut Branches<'a>) -> Result<Spec<'a>> {
        let mut spec = Spec {
            kinds: kind::ALL,
            constants: None,
            parts,
        };
        let (mut implied, mut named) = (0, false);
        for i in 0..spec.parts.len() {
            let part = spec.parts[i].clone();
            for (name, value) in part.members()? {
                for (kinds, names) in IMPLIED {
                    implied |= if names.contains(&name) { kinds } else { 0 };
                }
                match name {
                    "type" => {
                        named = true;
                        spec.kinds &= kinds_of(&value, &part)?;
                    }
                    "enum" => spec.allow_only(value.items()?.collect()),
                    "const" => spec.allow_only(vec![value]),
                    "uniqueItems" if value.flag()? => {
                        let most = part.get("maxItems")?.map(|most| most.count()).transpose()?;
                        if most.is_none_or(|most| most > 1) {
                            let warning = "is not held: items may come twice";
                            branches.warn(value.error(warning).to_string());
                        }
                    }
                    "format" => {
                        let format = value.text()?;
                        let known = formats::pattern(format).is_some();
                        if !known && !formats::FREE.contains(&format) {
                            let warning = format!("format '{}' is not held", short(format));
                            branches.warn(value.error(&warning).to_string());
                        }
                    }
                    "unevaluatedProperties" => match value.value() {
                        Value::Bool(true) => {}
                        Value::Bool(false) if i == 0 && alone => {}
                        _ => return Err(unsupported(&value, "'unevaluatedProperties' here")),
                    },
                    name if UNSUPPORTED.contains(&name) => {
                        return Err(unsupported(&value, &format!("'{name}'")));
                    }
                    _ => {}
                }
            }
        }
        if !named && spec.constants.is_none() && implied != 0 {
            spec.kinds = implied;
        }
        Ok(spec)
    }

    fn allow_only(&mut self, values: Vec<Node<'a>>) {
        self.constants = Some(match self.constants.take() {
            None => values,
            Some(mut both) => {
                both.retain(|a| values.iter().any(|b| values::same(a.value(), b.value())));
                both
            }
        });
    }

    /// The values of a keyword in all parts that have it.
    fn all(&self, name: &str) -> Result<Vec<Node<'a>>> {
        let found = self.parts.iter().map(|part| member(part, name));
        Ok(found
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect())
    }

    /// A lower and an upper bound on a count.
    pub fn counts(&self, min: &str, max: &str) -> Result<(u32, Option<u32>)> {
        let count = |node: &Node<'_>| match *node.value() {
            // Some write 5.0.
            Value::Number(n) if n >= 0.0 && n.fract() == 0.0 => Ok(n as u64),
            _ => node.count(),
        };
        let (mut low, mut high) = (0, None::<u64>);
        for node in self.all(min)? {
            let n = count(&node)?;
            if n > MAX_COUNT {
                return Err(node.error(&format!("found {n}, expected {MAX_COUNT} at most")));
            }
            low = low.max(n);
        }
        for node in self.all(max)? {
            let n = count(&node)?;
            high = Some(high.map_or(n, |high| high.min(n)));
        }
        let high = high.filter(|n| *n <= MAX_COUNT);
        Ok((low as u32, high.map(|n| n as u32)))
    }

    /// The automata of its strings, which all must accept.
    fn patterns(&self, known: &Patterns) -> Result<Vec<(Node<'a>, Rc<Dfa>)>> {
        let mut all = Vec::new();
        for node in self.all("pattern")? {
            let pattern = known.get(node.text()?).map_err(|e| node.at(e))?;
            all.push((node, pattern));
        }
        for node in self.all("format")? {
            if let Some(pattern) = formats::pattern(node.text()?) {
                let pattern = known.get(&pattern).map_err(|e| node.at(e))?;
                all.push((node, pattern));
            }
        }
        Ok(all)
    }

    /// The automaton of its strings.
    pub fn strings(&self, known: &Patterns) -> Result<Dfa> {
        let all = self.patterns(known)?;
        all.iter().try_fold(Dfa::any(), |dfa, (node, pattern)| {
            let both = dfa.and(pattern).and_then(|both| known.made(both));
            both.map_err(|e| node.at(e))
        })
    }

    /// Whether a string is what its patterns say.
    pub fn matches(&self, text: &str, known: &Patterns) -> Result<bool> {
        let all = self.patterns(known)?;
        Ok(all.iter().all(|(_, pattern)| pattern.matches(text)))
    }

    /// The bounds of its numbers: the value, and whether it is excluded.
    pub fn bounds(&self, name: &str, exclusive: &str) -> Result<Vec<(Node<'a>, bool)>> {
        let mut bounds = Vec::new();
        for part in &self.parts {
            // In the fourth draft `exclusiveMinimum: true` is about `minimum`.
            let beyond = member(part, exclusive)?;
            let flag = beyond.as_ref().and_then(|node| node.flag().ok());
            if let Some(node) = member(part, name)? {
                node.number()?;
                bounds.push((node, flag == Some(true)));
            }
            if let Some(node) = beyond.filter(|_| flag.is_none()) {
                node.number()?;
                bounds.push((node, true));
            }
        }
        Ok(bounds)
    }

    /// Numbers of which its numbers are multiples.
    pub fn factors(&self) -> Result<Vec<Node<'a>>> {
        let all = self.all("multipleOf")?;
        for node in &all {
            if node.number()? <= 0.0 {
                return Err(node.error("expected a number above 0"));
            }
        }
        Ok(all)
    }

    /// What item number `n` must be; beyond the first ones with `None`. Also tells how many are first ones.
    pub fn item(&self, n: Option<usize>) -> Result<(Goal<'a>, usize)> {
        let (mut goal, mut n_first) = (Goal::new(), 0);
        for part in &self.parts {
            // Up to the draft of 2019 a list of `items` was what `prefixItems` is now.
            let items = member(part, "items")?;
            let older = items
                .as_ref()
                .and_then(|items| Some(items.items().ok()?.collect::<Vec<_>>()));
            let (first, rest) = match older {
                Some(first) => (first, member(part, "additionalItems")?),
                None => match member(part, "prefixItems")? {
                    Some(first) => (first.items()?.collect::<Vec<_>>(), items),
                    None => (Vec::new(), items),
                },
            };
            n_first = n_first.max(first.len());
            let item = n.and_then(|n| first.get(n).cloned());
            goal.extend(item.or(rest));
        }
        Ok((goal, n_first))
    }

    /// What its objects are made of.
    pub fn object(&self, known: &Patterns) -> Result<Object<'a>> {
        let mut object = Object::default();
        let mut names: Vec<&'a str> = Vec::new();
        for properties in self.all("properties")? {
            names.extend(properties.members()?.map(|(name, _)| name));
        }
        let is_closed = !names.is_empty();
        let mut required = std::collections::HashSet::new();
        for list in self.all("required")? {
            // In the third draft a flag.
            for name in list.items()? {
                required.insert(name.text()?);
                names.push(name.text()?);
            }
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        let mut patterns: Vec<(Node<'a>, &'a str, Rc<Dfa>)> = Vec::new();
        for all in self.all("patternProperties")? {
            for (pattern, schema) in all.members()? {
                let dfa = known.get(pattern).map_err(|e| schema.at(e))?;
                patterns.push((schema, pattern, dfa));
            }
        }
        if let Some((schema, ..)) = patterns.get(4) {
            return Err(unsupported(schema, "more than four 'patternProperties'"));
        }
        let key_goal = self.all("propertyNames")?;
        for name in names {
            let mut goal = Goal::new();
            for part in &self.parts {
                let (mut by_name, matching) = self.declared(part, name, &patterns)?;
                by_name.extend(matching);
                match by_name.is_empty() {
                    true => goal.extend(member(part, "additionalProperties")?),
                    false => goal.extend(by_name),
                }
            }
            object.properties.push(Property {
                name,
                goal,
                required: required.contains(name),
            });
        }
        // Other names: by which of the patterns they match.
        for chosen in 0..1usize << patterns.len() {
            let (mut names, mut goal) = (Dfa::any(), Goal::new());
            for (i, (schema, _, dfa)) in patterns.iter().enumerate() {
                if chosen >> i & 1 == 1 {
                    names = known.made(names.and(dfa)?)?;
                    goal.push(schema.clone());
                } else {
                    names = known.made(names.and(&dfa.not()?)?)?;
                }
            }
            let mut opened = chosen != 0;
            for part in &self.parts {
                let mine = |pattern: &str| {
                    let all = member(part, "patternProperties").ok().flatten();
                    all.is_some_and(|all| member(&all, pattern).ok().flatten().is_some())
                };
                let matched = (patterns.iter().enumerate())
                    .any(|(i, (_, pattern, _))| chosen >> i & 1 == 1 && mine(pattern));
                if let Some(more) = member(part, "additionalProperties")?.filter(|_| !matched) {
                    opened = true;
                    goal.push(more);
                }
                let unevaluated = part.get("unevaluatedProperties")?;
                if unevaluated.is_some_and(|node| *node.value() == Value::Bool(false)) {
                    opened &= chosen != 0;
                }
            }
            // Without a word about others, a schema that declares some means these.
            let is_open = opened || !is_closed && patterns.is_empty();
            if is_open && !names.is_empty() {
                object.others.push((names, goal));
            }
        }
        object.key_goal = key_goal;
        (object.min, object.max) = self.counts("minProperties", "maxProperties")?;
        Ok(object)
    }

    /// What a part says of a name: in `properties`, and by the patterns that match.
    fn declared(
        &self,
        part: &Node<'a>,
        name: &str,
        patterns: &[(Node<'a>, &'a str, Rc<Dfa>)],
    ) -> Result<(Goal<'a>, Goal<'a>)> {
        let of = |name: &str, keyword: &str| -> Result<Option<Node<'a>>> {
            match member(part, keyword)? {
                Some(all) => member(&all, name),
                None => Ok(None),
            }
        };
        let by_name = of(name, "properties")?;
        let mut matching = Goal::new();
        for (_, pattern, dfa) in patterns {
            if dfa.matches(name) {
                matching.extend(of(pattern, "patternProperties")?);
            }
        }
        Ok((by_name.into_iter().collect(), matching))
    }
}

/// What an object is made of.
#[derive(Default)]
pub struct Object<'a> {
    /// Members by name, in the order of the schema.
    pub properties: Vec<Property<'a>>,
    /// Other names, and what their values must be.
    pub others: Vec<(Dfa, Goal<'a>)>,
    /// What names must be.
    pub key_goal: Goal<'a>,
    /// Members at least.
    pub min: u32,
    /// And at most.
    pub max: Option<u32>,
}

/// A member.
pub struct Property<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its value must be.
    pub goal: Goal<'a>,
    /// Whether it must be there.
    pub required: bool,
}

fn kinds_of(value: &Node<'_>, part: &Node<'_>) -> Result<u8> {
    let one = |node: &Node<'_>| -> Result<u8> {
        Ok(match node.text()? {
            "null" => kind::NULL,
            "boolean" => kind::BOOL,
            "integer" => kind::WHOLE,
            "number" => kind::WHOLE | kind::BROKEN,
            "string" => kind::TEXT,
            "array" => kind::LIST,
            "object" => kind::OBJECT,
            "any" => kind::ALL,
            other => {
                let expected = "expected null, boolean, integer, number, string, array or object";
                let found = short(other);
                return Err(node.error(&format!("found '{found}', {expected}")));
            }
        })
    };
    let mut kinds = match value.value() {
        Value::List(_) => value
            .items()?
            .try_fold(0, |all, node| Ok(all | one(&node)?))?,
        _ => one(value)?,
    };
    // As OpenAPI writes it.
    if part
        .get("nullable")?
        .is_some_and(|flag| *flag.value() == Value::Bool(true))
    {
        kinds |= kind::NULL;
    }
    Ok(kinds)
}
