//! A validator of JSON schemas, as short as it can be: for each keyword the sentence of the standard.

use fancy_regex::Regex;
use serde_json::Value;

/// Whether a value is valid by a schema whose references lead into `root`.
pub fn valid(schema: &Value, value: &Value, root: &Value) -> bool {
    let Value::Object(keywords) = schema else {
        return schema == &Value::Bool(true);
    };
    keywords
        .iter()
        .all(|(name, keyword)| holds(name, keyword, schema, value, root))
}

fn holds(name: &str, keyword: &Value, schema: &Value, value: &Value, root: &Value) -> bool {
    let ok = |schema: &Value, value: &Value| valid(schema, value, root);
    let list = || keyword.as_array().unwrap().iter();
    let n = || keyword.as_f64().unwrap();
    let number = value.as_f64();
    let chars = value.as_str().map(|text| text.chars().count() as f64);
    let items = value.as_array();
    let members = value.as_object();
    let found = |pattern: &str, text: &str| Regex::new(pattern).unwrap().is_match(text).unwrap();
    match name {
        "type" => match keyword {
            Value::String(kind) => is_of(kind, value),
            _ => list().any(|kind| is_of(kind.as_str().unwrap(), value)),
        },
        "enum" => list().any(|other| equal(other, value)),
        "const" => equal(keyword, value),
        "$ref" => ok(
            root.pointer(&keyword.as_str().unwrap()[1..]).unwrap(),
            value,
        ),
        "allOf" => list().all(|schema| ok(schema, value)),
        "anyOf" => list().any(|schema| ok(schema, value)),
        "oneOf" => list().filter(|schema| ok(schema, value)).count() == 1,
        "minimum" => number.is_none_or(|v| v >= n()),
        "maximum" => number.is_none_or(|v| v <= n()),
        "exclusiveMinimum" => number.is_none_or(|v| v > n()),
        "exclusiveMaximum" => number.is_none_or(|v| v < n()),
        "multipleOf" => number.is_none_or(|v| (v / n()).fract() == 0.0),
        "minLength" => chars.is_none_or(|chars| chars >= n()),
        "maxLength" => chars.is_none_or(|chars| chars <= n()),
        "pattern" => value
            .as_str()
            .is_none_or(|text| found(keyword.as_str().unwrap(), text)),
        "minItems" => items.is_none_or(|items| items.len() as f64 >= n()),
        "maxItems" => items.is_none_or(|items| items.len() as f64 <= n()),
        "prefixItems" => items.is_none_or(|items| list().zip(items).all(|(s, v)| ok(s, v))),
        "items" => {
            let first = schema["prefixItems"].as_array().map_or(0, Vec::len);
            items.is_none_or(|items| items.iter().skip(first).all(|v| ok(keyword, v)))
        }
        "minProperties" => members.is_none_or(|members| members.len() as f64 >= n()),
        "maxProperties" => members.is_none_or(|members| members.len() as f64 <= n()),
        "required" => {
            members.is_none_or(|m| list().all(|name| m.contains_key(name.as_str().unwrap())))
        }
        "properties" => members.is_none_or(|m| {
            m.iter()
                .all(|(k, v)| keyword.get(k).is_none_or(|s| ok(s, v)))
        }),
        "patternProperties" => members.is_none_or(|members| {
            let all = || keyword.as_object().unwrap().iter();
            members
                .iter()
                .all(|(k, v)| all().all(|(p, s)| !found(p, k) || ok(s, v)))
        }),
        "propertyNames" => members.is_none_or(|members| {
            members
                .keys()
                .all(|k| ok(keyword, &Value::String(k.clone())))
        }),
        "additionalProperties" => members.is_none_or(|members| {
            let declared = |k: &str| schema["properties"].get(k).is_some();
            let patterns = schema["patternProperties"].as_object();
            let matched = |k: &str| patterns.is_some_and(|all| all.keys().any(|p| found(p, k)));
            let others = members.iter().filter(|(k, _)| !declared(k) && !matched(k));
            others.into_iter().all(|(_, v)| ok(keyword, v))
        }),
        "$defs" | "title" | "description" => true,
        other => panic!("keyword {other}"),
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
