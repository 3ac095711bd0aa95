//! Random schemas, and all small values.

use infall::rng::Rng;
use serde_json::{Map, Value, json};

/// A source of schemas.
pub struct Schemas {
    rng: Rng,
    /// Nothing that leaves a choice of what is written: no silence about types and other members, no names out of order.
    exact: bool,
}

impl Schemas {
    /// Of all keywords.
    pub fn any(seed: u64) -> Schemas {
        Schemas {
            rng: Rng::new(seed),
            exact: false,
        }
    }

    /// Of those under which the small values are written in one way.
    pub fn exact(seed: u64) -> Schemas {
        Schemas {
            rng: Rng::new(seed),
            exact: true,
        }
    }

    /// A schema with definitions.
    pub fn schema(&mut self) -> Value {
        let mut schema = self.node(3);
        let (tree, other) = (self.tree(), self.node(1));
        if let Value::Object(keywords) = &mut schema {
            keywords.insert("$defs".into(), json!({"tree": tree, "other": other}));
        }
        schema
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }

    fn tree(&mut self) -> Value {
        let n = self.rng.below(3);
        let required = ["a", "b"][n % 2];
        json!({"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": n + 1},
            "b": {"$ref": "#/$defs/other"}}, "required": [required], "additionalProperties": false})
    }

    fn node(&mut self, depth: usize) -> Value {
        let mut map = Map::new();
        match self.rng.below(if depth == 0 { 7 } else { 13 }) {
            0 => return json!({"type": "boolean"}),
            1 => return json!({"type": ["null", "string"]}),
            2 => self.constants(&mut map, depth),
            3 | 4 => self.string(&mut map),
            5 => self.number(&mut map, "integer"),
            6 => self.number(&mut map, "number"),
            7 | 8 => self.object(&mut map, depth),
            9 => self.array(&mut map, depth),
            10 => {
                let n = 1 + self.rng.below(3);
                let any: Vec<Value> = (0..n).map(|_| self.node(depth - 1)).collect();
                map.insert("anyOf".into(), any.into());
            }
            11 => {
                // Both about one kind of value, so that they can often be met together.
                let (mut a, mut b) = (Map::new(), Map::new());
                match self.rng.below(4) {
                    0 => (self.string(&mut a), self.string(&mut b)),
                    1 => (
                        self.number(&mut a, "integer"),
                        self.number(&mut b, "number"),
                    ),
                    2 => (self.array(&mut a, depth - 1), self.array(&mut b, depth - 1)),
                    _ => (
                        self.object(&mut a, depth - 1),
                        self.object(&mut b, depth - 1),
                    ),
                };
                map.insert("allOf".into(), json!([a, b]));
            }
            _ => match self.rng.below(4) {
                0 => return json!({"$ref": "#/$defs/tree"}),
                1 => return json!({"$ref": "#/$defs/other"}),
                2 => {
                    return json!({"oneOf": [{"type": "integer"}, self.boxed(depth - 1), {"type": "null"}]});
                }
                _ if self.exact => return json!({"type": "null"}),
                _ => return json!(true),
            },
        }
        Value::Object(map)
    }

    /// In an array, so that it is neither a number nor null.
    fn boxed(&mut self, depth: usize) -> Value {
        json!({"type": "array", "items": self.node(depth)})
    }

    fn constants(&mut self, map: &mut Map<String, Value>, depth: usize) {
        let all = [
            json!("a"),
            json!("ab\"c\\d"),
            json!("é\n"),
            json!(1),
            json!(-2.5),
            json!(null),
            json!(true),
            json!([]),
            json!([1, "a"]),
            json!({"a": 1}),
            json!({}),
            json!(""),
            json!(1.0),
            json!("b"),
        ];
        let mut pick = || all[self.rng.below(all.len())].clone();
        if depth.is_multiple_of(2) {
            map.insert("const".into(), pick());
        } else {
            map.insert("enum".into(), json!([pick(), pick(), pick()]));
        }
        if self.one_in(3) {
            map.insert("type".into(), json!(["string", "integer", "null"]));
        }
    }

    fn string(&mut self, map: &mut Map<String, Value>) {
        map.insert("type".into(), "string".into());
        if self.one_in(3) {
            map.insert("minLength".into(), self.rng.below(4).into());
        }
        if self.one_in(3) {
            map.insert("maxLength".into(), (2 + self.rng.below(6)).into());
        }
        if self.one_in(2) {
            let pattern = self.pattern(2);
            let pattern = match self.rng.below(4) {
                0 => format!("^(?:{pattern})$"),
                1 => format!("^{pattern}"),
                2 => format!("^a{pattern}b?$"),
                _ => pattern,
            };
            map.insert("pattern".into(), pattern.into());
        }
    }

    fn pattern(&mut self, depth: usize) -> String {
        let n = 1 + self.rng.below(3);
        let mut text = String::new();
        for _ in 0..n {
            let atom = match self.rng.below(if depth == 0 { 9 } else { 12 }) {
                0 | 1 => "a".to_owned(),
                2 => "b".to_owned(),
                3 => "[a-c]".to_owned(),
                4 => ["\\d", "\\w", "\\s", "\\S", "\\D"]
                    [self.rng.below(5 - usize::from(self.exact))]
                .to_owned(),
                5 => ".".to_owned(),
                6 => "[^a]".to_owned(),
                7 => "[é-ü\\-\"]".to_owned(),
                8 => "\\.".to_owned(),
                9 => format!("({})", self.pattern(depth - 1)),
                10 => format!(
                    "(?:{}|{})",
                    self.pattern(depth - 1),
                    self.pattern(depth - 1)
                ),
                _ => format!("(?:^|{})", self.pattern(depth - 1)),
            };
            text += &atom;
            text += ["", "", "", "?", "*", "+", "{2}", "{1,3}", "*?"][self.rng.below(9)];
        }
        text
    }

    fn number(&mut self, map: &mut Map<String, Value>, kind: &str) {
        map.insert("type".into(), kind.into());
        let low = self.rng.below(200) as f64 / [1.0, 2.0, 8.0][self.rng.below(3)] - 30.0;
        let high = low + self.rng.below(3000) as f64 / 16.0;
        if self.one_in(2) {
            map.insert(
                ["minimum", "exclusiveMinimum"][self.rng.below(2)].into(),
                low.into(),
            );
        }
        if self.one_in(2) {
            map.insert(
                ["maximum", "exclusiveMaximum"][self.rng.below(2)].into(),
                high.into(),
            );
        }
        if self.one_in(4) {
            let factor = [
                json!(1),
                json!(2),
                json!(7),
                json!(0.5),
                json!(0.25),
                json!(100),
            ];
            map.insert("multipleOf".into(), factor[self.rng.below(6)].clone());
        }
    }

    fn array(&mut self, map: &mut Map<String, Value>, depth: usize) {
        map.insert("type".into(), "array".into());
        if self.one_in(3) {
            let first: Vec<Value> = (0..1 + self.rng.below(2))
                .map(|_| self.node(depth - depth.min(1)))
                .collect();
            map.insert("prefixItems".into(), first.into());
        }
        if self.one_in(2) || self.exact {
            let items = match self.one_in(5) {
                true => false.into(),
                false => self.node(depth - depth.min(1)),
            };
            map.insert("items".into(), items);
        }
        if self.one_in(3) {
            map.insert("minItems".into(), self.rng.below(3).into());
        }
        if self.one_in(2) {
            map.insert("maxItems".into(), (1 + self.rng.below(3)).into());
        }
    }

    fn object(&mut self, map: &mut Map<String, Value>, depth: usize) {
        map.insert("type".into(), "object".into());
        let names: &[&str] = match self.exact {
            true => &["a", "b"],
            false => &["b", "a", "kind", "é \"x\"", "x_1", ""],
        };
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for name in names {
            // One order for all: what declares b declares a too.
            let first = self.exact && *name == "b" && !properties.contains_key("a");
            if self.one_in(2) && !first {
                properties.insert((*name).into(), self.node(depth - depth.min(1)));
            }
            if self.one_in(4) && (!self.exact || properties.contains_key(*name)) {
                required.push(*name);
            }
        }
        let other = match self.rng.below(4) {
            0 => Some(true.into()),
            1 => Some(self.node(0)),
            2 if !self.exact => None,
            _ => Some(false.into()),
        };
        map.extend(other.map(|other| ("additionalProperties".to_owned(), other)));
        if !required.is_empty() {
            map.insert("required".into(), required.into());
        }
        if self.one_in(8) {
            let schema = self.node(0);
            map.insert(
                "patternProperties".into(),
                json!({["^b", "_", "a$"][self.rng.below(3)]: schema}),
            );
        }
        if self.one_in(8) {
            // Of other members only one counts, since their names may be the same.
            let most = if self.exact { 1 } else { 2 };
            map.insert("minProperties".into(), (1 + self.rng.below(most)).into());
        }
        if self.one_in(8) {
            map.insert("maxProperties".into(), (1 + self.rng.below(3)).into());
        }
        if self.one_in(10) {
            map.insert("propertyNames".into(), json!({"pattern": "^[a-k]*$"}));
        }
        map.insert("properties".into(), properties.into());
    }
}

/// Small values, with members in alphabetical order.
pub fn values() -> Vec<Value> {
    let scalars = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(2),
        json!(-3),
        json!(14),
        json!(100),
        json!(0.5),
        json!(-2.5),
        json!(7.25),
        json!(""),
        json!("a"),
        json!("b"),
        json!("ab"),
        json!("a1"),
        json!("aab"),
        json!("é"),
        json!("a.b"),
        json!("aaaaaaaa"),
        json!(" "),
    ];
    let mut all = scalars.to_vec();
    all.extend([
        json!([]),
        json!({}),
        json!([[]]),
        json!([{}]),
        json!({"a": []}),
        json!({"a": [], "b": 1}),
    ]);
    for x in &scalars {
        all.extend([json!([x]), json!({"a": x}), json!({"b": x}), json!([[x]])]);
        for y in &scalars[..16] {
            all.extend([json!([x, y]), json!({"a": x, "b": y})]);
        }
    }
    all.extend([
        json!([1, 2, 3]),
        json!(["a", "b", "a", "b"]),
        json!({"a": {"a": {"a": 1}}}),
    ]);
    all
}
