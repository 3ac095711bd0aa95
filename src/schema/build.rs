//! From a schema to a grammar of the JSON that it allows, in one style of writing.
//!
//! ```text
//! {"a": 1, "b": [1,2]}        no space or one behind ':' and ','
//! {                           or a new line and at most 20 spaces behind '{', '[' and ',' and before '}' and ']'
//!   "a": 1
//! }
//! ```

use super::branches::{Branches, Goal};
use super::decimal::Decimal;
use super::dfa::Dfa;
use super::grammar::{Between, Builder, List, Member, Members, Node, NodeId, UNBOUNDED};
use super::patterns::Patterns;
use super::spec::{Object, Spec, kind};
use super::text::{Text, Written};
use super::values::{number, same, units, write};
use crate::error::{Error, Result};
use crate::json::source::quote;
use crate::json::{Node as At, Value};
use std::collections::HashMap;

/// Different values that a schema speaks of.
const MAX_GOALS: usize = 1 << 13;

/// Bytes of all automata of a schema, with the tables of their lengths.
const MAX_BYTES: usize = 16 << 20;

/// Spaces at the start of a line.
const MAX_INDENT: u32 = 20;

/// Digits of a number without bounds before the point, and behind it: binary64 holds 15.
const DIGITS: u32 = 15;

/// Makes a grammar.
pub struct Compiler<'a> {
    /// What is made.
    pub builder: Builder,
    /// Takes schemas apart.
    pub branches: Branches<'a>,
    /// The node of each goal, by the places of its schemas.
    known: HashMap<Vec<*const Value>, NodeId>,
    /// Nodes that are reserved, and what they are to be.
    open: Vec<(NodeId, Goal<'a>)>,
    pub(super) patterns: Patterns,
    n_bytes: usize,
    /// What no text may contain.
    mark: Option<&'a str>,
    pub(super) style: Style,
}

/// Nodes that all values share.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub nothing: NodeId,
    /// `"`
    quote: NodeId,
    /// `:` and perhaps a space.
    colon: NodeId,
    between: Between,
    /// A number without bounds.
    number: NodeId,
}

impl Style {
    fn new(builder: &mut Builder) -> Result<Style> {
        let nothing = builder.bytes([])?;
        let space = builder.bytes(" ")?;
        let indent = builder.repeat(space, 0, MAX_INDENT)?;
        let newline = builder.bytes("\n")?;
        let line = builder.seq([newline, indent])?;
        let gap = builder.alt([nothing, space, line])?;
        let comma = builder.bytes(",")?;
        let colon = builder.bytes(":")?;
        let maybe_space = builder.optional(space)?;
        Ok(Style {
            nothing,
            quote: builder.bytes("\"")?,
            colon: builder.seq([colon, maybe_space])?,
            between: Between {
                start: gap,
                separator: builder.seq([comma, gap])?,
                end: gap,
                empty: nothing,
            },
            number: any_number(builder)?,
        })
    }
}

fn any_number(builder: &mut Builder) -> Result<NodeId> {
    let digit = builder.one_of(b"0123456789")?;
    let first = builder.one_of(b"123456789")?;
    let minus = builder.bytes("-")?;
    let sign = builder.optional(minus)?;
    let more = builder.repeat(digit, 0, DIGITS - 1)?;
    let long = builder.seq([first, more])?;
    let zero = builder.bytes("0")?;
    let whole = builder.alt([zero, long])?;
    let point = builder.bytes(".")?;
    let places = builder.repeat(digit, 1, DIGITS)?;
    let fraction = builder.seq([point, places])?;
    let fraction = builder.optional(fraction)?;
    let e = builder.one_of(b"eE")?;
    let plus_or_minus = builder.one_of(b"+-")?;
    let exponent_sign = builder.optional(plus_or_minus)?;
    let exponent_digits = builder.repeat(digit, 1, 2)?;
    let exponent = builder.seq([e, exponent_sign, exponent_digits])?;
    let exponent = builder.optional(exponent)?;
    builder.seq([sign, whole, fraction, exponent])
}

impl<'a> Compiler<'a> {
    /// For a schema into which its references lead. `mark` occurs in no text that is written; `builder` may hold other
    /// rules.
    pub fn new(root: At<'a>, mut builder: Builder, mark: Option<&'a str>) -> Result<Compiler<'a>> {
        Ok(Compiler {
            style: Style::new(&mut builder)?,
            builder,
            branches: Branches::new(root),
            known: HashMap::new(),
            open: Vec::new(),
            patterns: Patterns::default(),
            n_bytes: 0,
            mark,
        })
    }

    /// The node of the values that meet a goal; it is complete after [`Compiler::finish`].
    pub fn value(&mut self, goal: &[At<'a>]) -> Result<NodeId> {
        let mut key: Vec<*const Value> = goal.iter().map(|at| at.value() as *const _).collect();
        key.sort_unstable();
        key.dedup();
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        if self.known.len() >= MAX_GOALS {
            return Err(Error::limit(
                "values that a schema speaks of",
                MAX_GOALS + 1,
                MAX_GOALS,
            ));
        }
        let id = self.builder.reserve()?;
        self.known.insert(key, id);
        self.open.push((id, goal.to_vec()));
        Ok(id)
    }

    /// Makes all nodes that were asked for.
    pub fn finish(&mut self) -> Result<()> {
        while let Some((id, goal)) = self.open.pop() {
            let mut any = Vec::new();
            for spec in self.specs(&goal)? {
                any.extend(self.strings(&spec, None)?);
                any.extend(self.all_but_strings(&spec)?);
            }
            self.builder.set(id, Node::Alt(any));
        }
        Ok(())
    }

    /// The branches of a goal.
    pub fn specs(&mut self, goal: &[At<'a>]) -> Result<Vec<Spec<'a>>> {
        let branches = self.branches.of(goal)?.into_iter();
        let specs = branches.map(|parts| Spec::read(parts, goal.len() == 1, &mut self.branches));
        specs.collect()
    }

    /// The constants of a branch that meet all else it says.
    fn constants(&mut self, spec: &Spec<'a>) -> Result<Option<Vec<&'a Value>>> {
        let Some(constants) = &spec.constants else {
            return Ok(None);
        };
        let mut kept = Vec::new();
        for at in constants {
            if self.holds(at.value(), spec)? {
                kept.push(at.value());
            }
        }
        Ok(Some(kept))
    }

    /// The strings of a branch as they are, of `longest` characters where there is no bound.
    pub fn text_as_it_is(&mut self, spec: &Spec<'a>, longest: u32) -> Result<Option<NodeId>> {
        self.strings(spec, Some(longest))
    }

    /// The strings of a branch: in quotes, or as they are.
    fn strings(&mut self, spec: &Spec<'a>, bare: Option<u32>) -> Result<Option<NodeId>> {
        let quoted = bare.is_none();
        if spec.kinds & kind::TEXT == 0 {
            return Ok(None);
        }
        if let Some(constants) = self.constants(spec)? {
            let mut any = Vec::new();
            for value in constants {
                if let Value::Text(text) = value {
                    any.push(match quoted {
                        true => self.constant(value)?,
                        false if self.mark.is_some_and(|mark| text.contains(mark)) => continue,
                        false => self.builder.bytes(text)?,
                    });
                }
            }
            let any = (!any.is_empty()).then_some(any);
            return any.map(|any| self.builder.alt(any)).transpose();
        }
        let (min, max) = spec.counts("minLength", "maxLength")?;
        let dfa = spec.strings(&self.patterns)?;
        let longest = bare.map_or(UNBOUNDED, |longest| longest.max(min));
        let written = match quoted {
            false => Written::Bare,
            true if dfa == Dfa::any() => Written::Json,
            true => Written::Plain,
        };
        let text = self.text(dfa, (min, max.unwrap_or(longest)), written, spec)?;
        Ok(Some(match quoted {
            true => {
                let quote = self.style.quote;
                self.builder.seq([quote, text, quote])?
            }
            false => text,
        }))
    }

    fn text(
        &mut self,
        dfa: Dfa,
        (min, max): (u32, u32),
        written: Written,
        spec: &Spec<'a>,
    ) -> Result<NodeId> {
        let dfa = match self.mark {
            Some(mark) => dfa.without_mark(mark)?,
            None => dfa,
        };
        let text = Text::new(dfa, min, max, written);
        let text = text.map_err(|e| spec.parts.first().map_or(e.clone(), |at| at.at(e)))?;
        self.n_bytes += text.memory_bytes();
        if self.n_bytes > MAX_BYTES {
            let what = "bytes of the patterns of a schema";
            return Err(Error::limit(what, self.n_bytes, MAX_BYTES));
        }
        self.builder.add(Node::Text(text))
    }

    /// A value as it is.
    fn constant(&mut self, value: &Value) -> Result<NodeId> {
        let mut text = write(value);
        if let Some((mark, first)) = self
            .mark
            .and_then(|mark| Some((mark, mark.chars().next()?)))
        {
            // A mark of letters only can stand in a string only, which has escapes.
            let escaped = format!("\\u{:04x}{}", u32::from(first), &mark[first.len_utf8()..]);
            text = text.replace(mark, &escaped);
        }
        self.builder.bytes(text)
    }

    /// What a branch allows besides strings.
    pub fn all_but_strings(&mut self, spec: &Spec<'a>) -> Result<Vec<NodeId>> {
        let mut any = Vec::new();
        if let Some(constants) = self.constants(spec)? {
            for value in constants {
                if !matches!(value, Value::Text(_)) {
                    any.push(self.constant(value)?);
                }
            }
            return Ok(any);
        }
        if spec.kinds & kind::NULL != 0 {
            any.push(self.builder.bytes("null")?);
        }
        if spec.kinds & kind::BOOL != 0 {
            any.push(self.builder.bytes("true")?);
            any.push(self.builder.bytes("false")?);
        }
        if spec.kinds & kind::WHOLE != 0 {
            any.push(self.number(spec)?);
        }
        if spec.kinds & kind::LIST != 0 {
            any.push(self.list(spec)?);
        }
        if spec.kinds & kind::OBJECT != 0 {
            any.push(self.object(spec)?);
        }
        Ok(any)
    }

    fn number(&mut self, spec: &Spec<'a>) -> Result<NodeId> {
        let lows = spec.bounds("minimum", "exclusiveMinimum")?;
        let highs = spec.bounds("maximum", "exclusiveMaximum")?;
        let factors = spec.factors()?;
        let whole = spec.kinds & kind::BROKEN == 0;
        if !whole && lows.is_empty() && highs.is_empty() && factors.is_empty() {
            return Ok(self.style.number);
        }
        let bound = |places: u32| {
            let each = |(at, beyond): &(At<'a>, bool), up: bool| {
                let (units, exact) = units(at.value(), places, up);
                let step = if up { 1 } else { -1 };
                units + if *beyond && exact { step } else { 0 }
            };
            let low = lows.iter().map(|bound| each(bound, true)).max();
            let high = highs.iter().map(|bound| each(bound, false)).min();
            (low, high)
        };
        // As many places as leave 15 digits, so that different texts are different numbers of binary64.
        let places = match whole {
            true => 0,
            false => {
                let (low, high) = bound(0);
                let unbounded = 10i128.pow(DIGITS - 6);
                let least = low.map_or(0, i128::abs).max(high.map_or(0, i128::abs));
                let open = low.is_none() || high.is_none();
                let most = if open { least.max(unbounded) } else { least };
                DIGITS
                    .saturating_sub(most.max(1).ilog10() + 1)
                    .min(DIGITS - 1)
            }
        };
        let (low, high) = bound(places);
        // Beyond a bound on one side, as far as 15 digits go from it.
        let far = 10i128.pow(DIGITS) - 1;
        let low_or = low.unwrap_or(-far.max(-high.unwrap_or(0) * 10));
        let high_or = high.unwrap_or(far.max(low.unwrap_or(0).saturating_mul(10)));
        let mut step = 1;
        for factor in &factors {
            let multiple = step_of(factor.value(), places);
            step = step / gcd(step, multiple) * multiple;
            if step > 10i128.pow(36) {
                return Err(factor.error("too large together with the others"));
            }
        }
        let decimal = Decimal::new(low_or, high_or, step, places as u8);
        self.builder.add(Node::Decimal(decimal))
    }

    fn list(&mut self, spec: &Spec<'a>) -> Result<NodeId> {
        let (rest, n_first) = spec.item(None)?;
        let (min, max) = spec.counts("minItems", "maxItems")?;
        let mut first = Vec::new();
        for n in 0..n_first {
            let (goal, _) = spec.item(Some(n))?;
            first.push(self.value(&goal)?);
        }
        let list = List {
            first,
            rest: Some(self.value(&rest)?),
            min,
            max: max.unwrap_or(UNBOUNDED),
            between: self.style.between,
            nests: true,
        };
        self.around("[", Node::List(list), "]")
    }

    fn object(&mut self, spec: &Spec<'a>) -> Result<NodeId> {
        let object = spec.object(&self.patterns)?;
        let mut members = Vec::new();
        for property in self.allowed(&object)? {
            let (goal, required) = (
                &object.properties[property].goal,
                object.properties[property].required,
            );
            let key = self.key(object.properties[property].name)?;
            let (colon, value) = (self.style.colon, self.value(goal)?);
            members.push(Member {
                node: self.builder.seq([key, colon, value])?,
                required,
            });
        }
        let extra = self.others(&object, spec)?;
        let node = Node::Members(Members {
            members,
            extra,
            min: object.min,
            max: object.max.unwrap_or(UNBOUNDED),
            between: self.style.between,
        });
        self.around("{", node, "}")
    }

    /// The members that may be there, by number; one that must be there although its name may not is kept, with a value that
    /// cannot be met.
    pub fn allowed(&mut self, object: &Object<'a>) -> Result<Vec<usize>> {
        let mut kept = Vec::new();
        for (i, property) in object.properties.iter().enumerate() {
            let name = Value::Text(property.name.to_owned());
            if self.meets(&name, &object.key_goal)? {
                kept.push(i);
            } else if property.required {
                return Err(Error::format(format!(
                    "{} is required, but no name that 'propertyNames' allows",
                    quote(property.name)
                )));
            }
        }
        Ok(kept)
    }

    /// The members of other names than those declared.
    fn others(&mut self, object: &Object<'a>, spec: &Spec<'a>) -> Result<Option<NodeId>> {
        let declared: Vec<&str> = object.properties.iter().map(|p| p.name).collect();
        let mut any = Vec::new();
        for (names, goal) in &object.others {
            let names = self.patterns.made(names.without(&declared)?)?;
            for keys in self.specs(&object.key_goal)? {
                if keys.kinds & kind::TEXT == 0 {
                    continue;
                }
                let key = match self.constants(&keys)? {
                    Some(constants) => {
                        let mut literal = Vec::new();
                        for value in constants {
                            if matches!(value, Value::Text(text) if names.matches(text)) {
                                literal.push(self.constant(value)?);
                            }
                        }
                        self.builder.alt(literal)?
                    }
                    None => {
                        let (min, max) = keys.counts("minLength", "maxLength")?;
                        let dfa = names.and(&keys.strings(&self.patterns)?)?;
                        let bounds = (min, max.unwrap_or(UNBOUNDED));
                        let text = self.text(dfa, bounds, Written::Plain, spec)?;
                        let quote = self.style.quote;
                        self.builder.seq([quote, text, quote])?
                    }
                };
                let (colon, value) = (self.style.colon, self.value(goal)?);
                any.push(self.builder.seq([key, colon, value])?);
            }
        }
        let any = (!any.is_empty()).then_some(any);
        any.map(|any| self.builder.alt(any)).transpose()
    }

    fn key(&mut self, name: &str) -> Result<NodeId> {
        self.constant(&Value::Text(name.to_owned()))
    }

    fn around(&mut self, open: &str, inner: Node, close: &str) -> Result<NodeId> {
        let (open, inner) = (self.builder.bytes(open)?, self.builder.add(inner)?);
        let close = self.builder.bytes(close)?;
        self.builder.seq([open, inner, close])
    }

    /// Whether a value meets a goal.
    fn meets(&mut self, value: &Value, goal: &[At<'a>]) -> Result<bool> {
        for spec in self.specs(goal)? {
            let listed = |all: &Vec<At<'_>>| all.iter().any(|at| same(at.value(), value));
            if spec.constants.as_ref().is_none_or(listed) && self.holds(value, &spec)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a value is what a branch says, besides its constants.
    fn holds(&mut self, value: &Value, spec: &Spec<'a>) -> Result<bool> {
        let of_kind = match value {
            Value::Null => kind::NULL,
            Value::Bool(_) => kind::BOOL,
            Value::Count(_) => kind::WHOLE,
            Value::Number(v) if v.fract() == 0.0 => kind::WHOLE,
            Value::Number(_) => kind::BROKEN,
            Value::Text(_) => kind::TEXT,
            Value::List(_) => kind::LIST,
            Value::Object(_) => kind::OBJECT,
        };
        if spec.kinds & of_kind == 0 {
            return Ok(false);
        }
        let within = |n: usize, (min, max): (u32, Option<u32>)| {
            n >= min as usize && max.is_none_or(|max| n <= max as usize)
        };
        match value {
            Value::Text(text) => {
                let counts = spec.counts("minLength", "maxLength")?;
                Ok(within(text.chars().count(), counts) && spec.matches(text, &self.patterns)?)
            }
            Value::Count(_) | Value::Number(_) => holds_number(value, spec),
            Value::List(items) => {
                for (n, item) in items.iter().enumerate() {
                    let (goal, _) = spec.item(Some(n))?;
                    if !self.meets(item, &goal)? {
                        return Ok(false);
                    }
                }
                Ok(within(items.len(), spec.counts("minItems", "maxItems")?))
            }
            Value::Object(members) => {
                let object = spec.object(&self.patterns)?;
                for (name, value) in members {
                    let declared = object.properties.iter().find(|p| p.name == name);
                    let by_pattern = || object.others.iter().find(|(dfa, _)| dfa.matches(name));
                    let goal = match declared {
                        Some(property) => &property.goal,
                        None => match by_pattern() {
                            Some((_, goal)) => goal,
                            None => return Ok(false),
                        },
                    };
                    let key = Value::Text(name.clone());
                    if !self.meets(&key, &object.key_goal)? || !self.meets(value, goal)? {
                        return Ok(false);
                    }
                }
                let there = |name: &str| members.iter().any(|(other, _)| other == name);
                let mut required = object.properties.iter().filter(|p| p.required);
                Ok(required.all(|p| there(p.name))
                    && within(members.len(), (object.min, object.max)))
            }
            _ => Ok(true),
        }
    }
}

fn holds_number(value: &Value, spec: &Spec<'_>) -> Result<bool> {
    let v = number(value).unwrap_or(f64::NAN);
    for (at, beyond) in spec.bounds("minimum", "exclusiveMinimum")? {
        let low = at.number()?;
        if v < low || beyond && v == low {
            return Ok(false);
        }
    }
    for (at, beyond) in spec.bounds("maximum", "exclusiveMaximum")? {
        let high = at.number()?;
        if v > high || beyond && v == high {
            return Ok(false);
        }
    }
    // 12 places are enough for factors that people write.
    let (n, exact) = units(value, 12, true);
    for at in spec.factors()? {
        if !exact || n % step_of(at.value(), 12) != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The least number of units of 10^-`places` that is a multiple of a factor: with `factor = p / 10^k`, n units are one when
/// 10^k n is a multiple of 10^places p.
fn step_of(factor: &Value, places: u32) -> i128 {
    let k = (0..=18).find(|k| units(factor, *k, true).1).unwrap_or(18);
    let p = units(factor, k, true).0.clamp(1, 10i128.pow(18));
    let (unit, scale) = (10i128.pow(places) * p, 10i128.pow(k));
    unit / gcd(unit, scale)
}

fn gcd(a: i128, b: i128) -> i128 {
    match b {
        0 => a.max(1),
        b => gcd(b, a % b),
    }
}
