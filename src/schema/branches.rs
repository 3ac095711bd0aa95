//! What a schema says in several places, side by side: `$ref`, `allOf`, `anyOf` and `oneOf` are taken apart until each branch
//! is a list of schemas of which all hold, each read without these keywords.

use crate::error::{Error, Result};
use crate::json::{Node, Value};

/// Branches of one value.
const MAX_BRANCHES: usize = 256;

/// Schemas in all its branches.
const MAX_PARTS: usize = 1 << 12;

/// Schemas in the branches of all values, each time that they are looked at.
const MAX_WORK: usize = 1 << 20;

/// References and choices on the way to a schema.
const MAX_WAY: usize = 64;

/// Schemas of which all hold.
pub type Goal<'a> = Vec<Node<'a>>;

/// The member of a schema, also if it is `null`.
pub fn member<'a>(schema: &Node<'a>, name: &str) -> Result<Option<Node<'a>>> {
    let found = schema.members()?.find(|(other, _)| *other == name);
    Ok(found.map(|(_, value)| value))
}

/// Takes schemas apart.
pub struct Branches<'a> {
    root: Node<'a>,
    /// The schemas on the way to the one that is read.
    way: Vec<*const Value>,
    /// Schemas that were put into branches.
    work: usize,
    /// What is not held.
    pub warnings: Vec<String>,
}

impl<'a> Branches<'a> {
    /// References lead into `root`.
    pub fn new(root: Node<'a>) -> Branches<'a> {
        Branches {
            root,
            way: Vec::new(),
            work: 0,
            warnings: Vec::new(),
        }
    }

    /// Adds a warning, once.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The branches of all that `goal` asks for; none when it cannot be met.
    ///
    /// Errors: as [`super::Schema::compile`].
    pub fn of(&mut self, goal: &[Node<'a>]) -> Result<Vec<Goal<'a>>> {
        let mut branches = vec![Goal::new()];
        for schema in goal {
            let more = self.of_one(schema)?;
            branches = product(branches, more, &mut self.work)?;
        }
        Ok(branches)
    }

    fn of_one(&mut self, schema: &Node<'a>) -> Result<Vec<Goal<'a>>> {
        match schema.value() {
            Value::Bool(true) => return Ok(vec![Goal::new()]),
            Value::Bool(false) => return Ok(Vec::new()),
            Value::Object(_) => {}
            _ => return Err(schema.wrong("object or boolean")),
        }
        let this: *const Value = schema.value();
        if self.way.contains(&this) {
            return Err(schema.error("the schema leads back to itself without a value between"));
        }
        if self.way.len() >= MAX_WAY {
            return Err(schema.error(&format!("more than {MAX_WAY} schemas inside each other")));
        }
        self.way.push(this);
        let branches = self.of_members(schema);
        self.way.pop();
        branches
    }

    fn of_members(&mut self, schema: &Node<'a>) -> Result<Vec<Goal<'a>>> {
        let mut branches = vec![vec![schema.clone()]];
        for (name, value) in schema.members()? {
            let more = match name {
                "$ref" => {
                    let target = self.resolve(&value)?;
                    self.of_one(&target)?
                }
                "allOf" => {
                    let mut all = vec![Goal::new()];
                    for schema in value.items()? {
                        let more = self.of_one(&schema)?;
                        all = product(all, more, &mut self.work)?;
                    }
                    all
                }
                "anyOf" | "oneOf" => {
                    let (mut any, mut each) = (Vec::new(), Vec::new());
                    for schema in value.items()? {
                        let branches = self.of_one(&schema)?;
                        any.extend(branches.iter().cloned());
                        each.push(branches);
                    }
                    if name == "oneOf" && !are_apart(&each) {
                        let warning = "'oneOf' is held as 'anyOf', since its branches may overlap";
                        self.warn(value.error(warning).to_string());
                    }
                    within(any)?
                }
                "not" => match value.value() {
                    Value::Bool(false) => continue,
                    Value::Bool(true) => Vec::new(),
                    Value::Object(members) if members.is_empty() => Vec::new(),
                    _ => return Err(unsupported(&value, "'not'")),
                },
                _ => continue,
            };
            branches = product(branches, more, &mut self.work)?;
        }
        Ok(branches)
    }

    /// The schema that a `$ref` names.
    fn resolve(&self, reference: &Node<'a>) -> Result<Node<'a>> {
        let text = reference.text()?;
        let wrong = |expected: &str| {
            reference.error(&format!("found '{}', expected {expected}", short(text)))
        };
        let Some(pointer) = text.strip_prefix('#') else {
            return Err(wrong("a reference inside the schema, such as #/$defs/name"));
        };
        let pointer = unescape_percent(pointer);
        let mut at = self.root.clone();
        if pointer.is_empty() {
            return Ok(at);
        }
        let Some(steps) = pointer.strip_prefix('/') else {
            return Err(wrong("a reference of the form #/$defs/name"));
        };
        for step in steps.split('/') {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match at.value() {
                Value::Object(_) => member(&at, &step)?,
                Value::List(_) => {
                    let n = step.parse::<usize>().ok();
                    n.and_then(|n| at.items().ok()?.nth(n))
                }
                _ => None,
            };
            at = next.ok_or_else(|| wrong("a schema that is there"))?;
        }
        Ok(at)
    }
}

/// The error that something is not held.
pub fn unsupported(at: &Node<'_>, what: &str) -> Error {
    at.at(Error::unsupported(format!("{what} is not supported")))
}

/// The start of a text out of a schema, for a message.
pub fn short(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn unescape_percent(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, behind @ ..] = rest {
        let code = behind.get(..2).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match code {
            Some(code) if *first == b'%' => {
                bytes.push(code);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Each of one with each of the other.
fn product<'a>(
    left: Vec<Goal<'a>>,
    right: Vec<Goal<'a>>,
    work: &mut usize,
) -> Result<Vec<Goal<'a>>> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (a, b)));
    let n_parts: usize = left.len() * right.iter().map(Vec::len).sum::<usize>()
        + right.len() * left.iter().map(Vec::len).sum::<usize>();
    if left.len() * right.len() > MAX_BRANCHES || n_parts > MAX_PARTS {
        let found = left.len() * right.len();
        return Err(Error::limit("branches of a value", found, MAX_BRANCHES));
    }
    *work += n_parts + 1;
    if *work > MAX_WORK {
        return Err(Error::limit("branches of all values", *work, MAX_WORK));
    }
    Ok(pairs.map(|(a, b)| [&a[..], &b[..]].concat()).collect())
}

fn within(branches: Vec<Goal<'_>>) -> Result<Vec<Goal<'_>>> {
    match branches.len() {
        n if n > MAX_BRANCHES => Err(Error::limit("branches of a value", n, MAX_BRANCHES)),
        _ => Ok(branches),
    }
}

/// Whether no value can be in two of the alternatives, as far as types, constants and required constants tell.
fn are_apart(alternatives: &[Vec<Goal<'_>>]) -> bool {
    alternatives.iter().enumerate().all(|(i, a)| {
        let others = &alternatives[i + 1..];
        let pairs = others
            .iter()
            .flat_map(|b| a.iter().flat_map(|a| b.iter().map(move |b| (a, b))));
        pairs.into_iter().all(|(a, b)| are_apart_by_value(a, b))
    })
}

fn are_apart_by_value(a: &[Node<'_>], b: &[Node<'_>]) -> bool {
    let pairs = || a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    pairs().any(|(a, b)| by_types(a, b) || by_constants(a, b) || by_members(a, b))
}

fn by_types(a: &Node<'_>, b: &Node<'_>) -> bool {
    let types = |schema: &Node<'_>| -> Option<Vec<String>> {
        let kind = schema.get("type").ok()??;
        let one = |node: &Node<'_>| Some(node.text().ok()?.replace("integer", "number"));
        if let Some(only) = one(&kind) {
            return Some(vec![only]);
        }
        kind.items().ok()?.map(|kind| one(&kind)).collect()
    };
    match (types(a), types(b)) {
        (Some(a), Some(b)) => a.iter().all(|kind| !b.contains(kind)),
        _ => false,
    }
}

fn constants<'a>(schema: &Node<'a>) -> Option<Vec<Node<'a>>> {
    if let Some(only) = member(schema, "const").ok()? {
        return Some(vec![only]);
    }
    Some(schema.get("enum").ok()??.items().ok()?.collect())
}

fn by_constants(a: &Node<'_>, b: &Node<'_>) -> bool {
    match (constants(a), constants(b)) {
        (Some(a), Some(b)) => {
            let in_b = |x: &Node<'_>| b.iter().any(|y| super::values::same(x.value(), y.value()));
            !a.iter().any(in_b)
        }
        _ => false,
    }
}

/// Whether a member that both require has other constants, or another type, in each; both must be objects then.
fn by_members(a: &Node<'_>, b: &Node<'_>) -> bool {
    let required = |schema: &Node<'_>, name: &str| {
        let names = schema.get("required").ok().flatten();
        let is_object = schema.get("type").ok().flatten();
        is_object.is_some_and(|kind| kind.text().is_ok_and(|kind| kind == "object"))
            && names.is_some_and(|names| {
                let mut names = names.items().into_iter().flatten();
                names.any(|other| other.text().is_ok_and(|other| other == name))
            })
    };
    let Some(properties) = a.get("properties").ok().flatten() else {
        return false;
    };
    let mut names = properties.members().into_iter().flatten();
    names.any(|(name, in_a)| {
        required(a, name)
            && required(b, name)
            && declared(b, name).is_some_and(|in_b| {
                let objects = |node: &Node<'_>| matches!(node.value(), Value::Object(_));
                objects(&in_a)
                    && objects(&in_b)
                    && (by_constants(&in_a, &in_b) || by_types(&in_a, &in_b))
            })
    })
}

fn declared<'a>(schema: &Node<'a>, name: &str) -> Option<Node<'a>> {
    let all = schema.get("properties").ok().flatten()?;
    member(&all, name).ok().flatten()
}
