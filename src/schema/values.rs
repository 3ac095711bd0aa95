//! Values of JSON as schemas compare and write them.

use crate::json::Value;
use crate::json::source::quote;

/// Whether two values are the same: numbers by their value, objects without regard to order.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Count(_) | Value::Number(_), Value::Count(_) | Value::Number(_)) => match (a, b) {
            (Value::Count(a), Value::Count(b)) => a == b,
            _ => number(a) == number(b),
        },
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let in_b = |name: &str| b.iter().find(|(n, _)| n == name).map(|(_, value)| value);
            let found =
                |(name, value): &(String, Value)| in_b(name).is_some_and(|b| same(value, b));
            a.len() == b.len() && a.iter().all(found)
        }
        _ => a == b,
    }
}

/// A number, the nearest of binary64.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Count(n) => Some(*n as f64),
        Value::Number(v) => Some(*v),
        _ => None,
    }
}

/// A value as one line without spaces.
pub fn write(value: &Value) -> String {
    match value {
        Value::Text(text) => quote(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(write).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(members) => {
            let members = members.iter();
            let members = members.map(|(name, value)| format!("{}:{}", quote(name), write(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// A number in units of 10^-`places`, rounded up or down, and whether it is so many exactly. What is beyond 10^30 units
/// becomes that.
pub fn units(value: &Value, places: u32, up: bool) -> (i128, bool) {
    const BEYOND: i128 = 10i128.pow(30);
    // Without exponent, and with no more digits than tell the number from its neighbours.
    let text = value.to_string();
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, &text[..]),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut digits = whole.to_owned();
    let kept = fraction.len().min(places as usize);
    digits += &fraction[..kept];
    digits += &"0".repeat(places as usize - kept);
    let exact = fraction[kept..].bytes().all(|byte| byte == b'0');
    let magnitude = match digits.trim_start_matches('0') {
        "" => 0,
        digits if digits.len() > 30 => BEYOND,
        digits => digits.parse().unwrap_or(BEYOND),
    };
    let truncated = if negative { -magnitude } else { magnitude };
    let rounded = match (exact, negative, up) {
        (false, false, true) => truncated + 1,
        (false, true, false) => truncated - 1,
        _ => truncated,
    };
    (rounded, exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_units_and_round_to_the_side_that_is_asked_for() {
        for (text, places, up, expected) in [
            ("5", 0, true, (5, true)),
            ("-2.5", 1, true, (-25, true)),
            ("0.1", 0, true, (1, false)),
            ("0.1", 0, false, (0, false)),
            ("-0.15", 1, true, (-1, false)),
            ("-0.15", 1, false, (-2, false)),
            ("1e3", 2, false, (100_000, true)),
            ("1e300", 0, false, (10i128.pow(30), true)),
            ("18446744073709551615", 0, false, (u64::MAX.into(), true)),
        ] {
            let value = Value::parse(text).unwrap();
            assert_eq!(units(&value, places, up), expected, "{text}");
        }
    }

    #[test]
    fn values_are_the_same_by_what_they_mean() {
        let parse = |text| Value::parse(text).unwrap();
        let a = parse("{\"a\": [1, 2.0, \"x\"], \"b\": null}");
        let b = parse("{\"b\": null, \"a\": [1.0, 2, \"x\"]}");
        assert!(same(&a, &b) && !same(&a, &parse("{\"a\": [1, 2.0, \"x\"]}")));
        assert!(!same(&parse("[1]"), &parse("[1, 2]")) && !same(&parse("1"), &parse("true")));
        assert_eq!(write(&a), "{\"a\":[1,2,\"x\"],\"b\":null}");
    }
}
