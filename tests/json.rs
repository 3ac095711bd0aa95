//! JSON against another implementation of it.
#![allow(clippy::unwrap_used)]

use infall::json::{LIMITS, Value};

/// serde_json's reading of the same text.
fn twin(value: serde_json::Value) -> Value {
    use serde_json::Value as V;
    match value {
        V::Null => Value::Null,
        V::Bool(b) => Value::Bool(b),
        V::Number(n) => n
            .as_u64()
            .map_or_else(|| Value::Number(n.as_f64().unwrap()), Value::Count),
        V::String(s) => Value::Text(s),
        V::Array(a) => Value::List(a.into_iter().map(twin).collect()),
        V::Object(o) => Value::Object(o.into_iter().map(|(k, v)| (k, twin(v))).collect()),
    }
}

#[test]
fn texts_are_read_as_serde_reads_them() {
    let good = [
        "null",
        " true\n",
        "false",
        "0",
        "-0",
        "-1",
        "12",
        "1.5",
        "1e3",
        "1E-2",
        "-2.5e+1",
        "18446744073709551615",
        "18446744073709551616",
        r#""""#,
        r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\udc4d<""#,
        "\"é👍\u{7f}\"",
        "[]",
        "[ ]",
        "[1,[2,[]],{}]",
        r#"{"a": {"b": [null]}, "c": "d"}"#,
        "{ }",
    ];
    let bad = [
        "",
        "nul",
        "nulll",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "1e999",
        "-1e999",
        "0x1",
        "NaN",
        "\"",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\n\"",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,]",
        "[1 2]",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "1 1",
        "[]]",
        "'a'",
    ];
    for text in good {
        let serde: serde_json::Value = serde_json::from_str(text).unwrap();
        let value = Value::parse(text).unwrap();
        assert_eq!(value, twin(serde), "{text}");
        let written = value.to_string();
        let again = Value::parse(&written).unwrap();
        assert_eq!(again.to_string(), written, "{text}");
        // Cut at each byte: an error or another value, and no panic.
        (0..text.len())
            .filter(|i| text.is_char_boundary(*i))
            .for_each(|i| drop(Value::parse(&text[..i])));
    }
    for text in bad {
        assert!(
            serde_json::from_str::<serde_json::Value>(text).is_err(),
            "{text}"
        );
        assert!(Value::parse(text).is_err(), "{text}");
    }
}

#[test]
fn values_inside_each_other_end_at_the_limit() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        Value::parse(&nested(64)).unwrap();
        for n in [65, 10_000, 1_000_000] {
            let error = Value::parse(&nested(n)).unwrap_err().to_string();
            assert!(error.ends_with("depth 65 exceeds the limit 64"), "{error}");
            Value::parse(&open.repeat(n)).unwrap_err();
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    for (bytes, at) in [
        (&b"\xff"[..], 0),
        (b"\"\xc3\"", 1),
        (b"\"\xed\xa0\x80\"", 1),
        (b"\"ab\xc0\x80\"", 3),
        (b"[\"\xf4\x90\x80\x80\"]", 2),
        (b"\xef\xbb\xbf1\xfe", 4),
    ] {
        let error = Value::read(bytes, &LIMITS).unwrap_err().to_string();
        assert!(error.starts_with(&format!("byte {at}: ")), "{error}");
        assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_err());
    }
    // A byte order mark is no JSON.
    Value::read(b"\xef\xbb\xbf1", &LIMITS).unwrap_err();
}
