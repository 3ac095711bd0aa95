//! Answers that are held to JSON schemas, against validators that know nothing of how they are held: one here, and with
//! `scripts/schema_fuzz.py` that of Python's `jsonschema`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "schema/random.rs"]
mod random;
#[path = "schema/validator.rs"]
mod validator;

use infall::rng::Rng;
use infall::sampler::guide::{Guide, Opening};
use infall::sampler::vocabulary::{GuideVocabulary, Marks};
use infall::sampler::{Sampler, SamplerOptions};
use infall::schema::Schema;
use infall::schema::machine::Machine;
use infall::units::TokenId;
use random::Schemas;
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;
use validator::valid;

const END: TokenId = TokenId(256);

/// All bytes, the end, and what real vocabularies have besides.
fn vocabulary() -> (Vec<Vec<u8>>, Arc<GuideVocabulary>) {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.push(Vec::new());
    let more = [
        "{\"", "\":", "\": ", "\",\"", "\", \"", "\"}", "\"]", "[[", "]]", "]}", "}}", "},", "{}",
        "[]", "[\"", "true", "false", "null", "null,", "12", "123", "0.", ".5", "00", "-1", "1.5",
        "e9", "\\n", "\\u00", "\\\"", "\\\\", "é", "😀", "\n  ", "\n    \"", "  ", "ab", "abc",
        "bc\"", "a\"", "a\":", "b\": ", "kind", "size", "x_", "{\"a\":", "\"a\"", "-0", "10", "99",
    ];
    tokens.extend(more.iter().map(|text| text.as_bytes().to_vec()));
    let given = tokens
        .iter()
        .map(|token| (!token.is_empty()).then_some(&token[..]));
    let marks = Marks {
        end: END,
        call: None,
        turns: Vec::new(),
    };
    let vocabulary = GuideVocabulary::new(given, marks).unwrap();
    (tokens, Arc::new(vocabulary))
}

/// What a model of random logits says under a guide; it is drawn to what ends values the longer it speaks. `None` when it
/// does not end in time. Each mask has a token.
fn answer(
    schema: &Schema,
    seed: u64,
    known: &(Vec<Vec<u8>>, Arc<GuideVocabulary>),
) -> Option<String> {
    let (tokens, vocabulary) = known;
    let mut rng = Rng::new(seed);
    let mut sampler = Sampler::new(SamplerOptions {
        temperature: [0.0, 1.0][rng.below(2)],
        seed,
        ..SamplerOptions::default()
    })
    .unwrap();
    let guide = Guide::new(vocabulary.clone(), schema.grammar(), Opening::default());
    sampler.set_guide(Some(guide));
    let mut text = Vec::new();
    let mut logits = vec![0.0; tokens.len()];
    for n in 0..2000 {
        // Now and then without a pull, since a pattern may need what is not pulled.
        let pull = match rng.below(4) {
            0 => 0.0,
            _ => 1.0 + n as f32 / 40.0,
        };
        for (logit, token) in logits.iter_mut().zip(tokens) {
            *logit = 4.0 * rng.uniform();
            *logit += match token[..] {
                [b'"' | b'}' | b']' | b','] | [] => pull,
                [b'a'..=b'z' | b'0'..=b'9'] => 1.0,
                [b' ' | b'\n' | b'\\' | b'{' | b'['] => -pull,
                _ => 0.0,
            };
        }
        // An error would be an empty mask.
        let token = sampler.sample(&logits).unwrap();
        if token == END {
            assert!(sampler.guide().unwrap().is_complete());
            return Some(String::from_utf8(text).expect("an answer is UTF-8"));
        }
        text.extend_from_slice(&tokens[token.0 as usize]);
    }
    None
}

/// 300 random schemas, or as many as SCHEMA_FUZZ says; with SCHEMA_FUZZ_OUT the pairs of schema and answer are written
/// there, for other validators.
#[test]
fn every_answer_is_valid() {
    let from_env = |name: &str| std::env::var(name).ok();
    let n = from_env("SCHEMA_FUZZ").map_or(300, |n| n.parse().unwrap());
    let mut out = from_env("SCHEMA_FUZZ_OUT").map(|path| std::fs::File::create(path).unwrap());
    let known = vocabulary();
    let (mut n_ended, mut n_open, mut n_impossible) = (0, 0, 0);
    for seed in 1..=n {
        let schema = Schemas::any(seed).schema();
        let text = schema.to_string();
        let compiled = match Schema::compile(&text) {
            Ok((compiled, _)) => compiled,
            Err(error) => {
                let message = error.to_string();
                let known = [
                    "no value fits",
                    "is required, but",
                    "leads back to itself",
                    "of a pattern",
                ];
                let is_known = known.iter().any(|known| message.contains(known));
                assert!(is_known, "{seed}: {message}: {text}");
                n_impossible += 1;
                continue;
            }
        };
        let Some(said) = answer(&compiled, seed, &known) else {
            n_open += 1;
            continue;
        };
        n_ended += 1;
        let value: Value = serde_json::from_str(&said).expect(&said);
        assert!(valid(&schema, &value, &schema), "{seed}: {text}\n{said}");
        if let Some(out) = &mut out {
            writeln!(out, "{text}\n{}", serde_json::to_string(&said).unwrap()).unwrap();
        }
    }
    eprintln!(
        "{n} schemas: {n_ended} answers valid, {n_open} did not end, {n_impossible} schemas allow no value"
    );
    assert!(
        n_ended * 10 > n * 8 && n_open * 50 < n.max(50),
        "{n_ended}, {n_open}"
    );
}

/// For schemas that leave nothing to taste (order, silence about other members), the texts that are taken are those of the
/// values that a validator takes, out of all small ones.
#[test]
fn what_is_taken_is_what_is_valid() {
    let universe = random::values();
    let (mut n_valid, mut n_all) = (0, 0);
    for seed in 1..=400 {
        let schema = Schemas::exact(seed).schema();
        let compiled = Schema::compile(&schema.to_string());
        let mut machine = match compiled {
            Ok((compiled, _)) => Some(Machine::new(compiled.grammar())),
            Err(error) => {
                assert!(
                    error.to_string().contains("no value fits"),
                    "{error}: {schema}"
                );
                None
            }
        };
        for value in &universe {
            let taken = machine
                .as_mut()
                .is_some_and(|machine| takes(machine, &value.to_string()));
            let expected = valid(&schema, value, &schema);
            assert_eq!(taken, expected, "{seed}: {schema}\n{value}");
            n_valid += usize::from(expected);
            n_all += 1;
        }
    }
    assert!(
        n_valid * 50 > n_all && n_valid < n_all / 2,
        "{n_valid} of {n_all}"
    );
}

fn takes(machine: &mut Machine, text: &str) -> bool {
    let start = machine.start();
    let last = text
        .bytes()
        .try_fold(start, |state, byte| machine.next(state, byte));
    last.is_some_and(|state| machine.is_complete(state))
}

fn compiled(schema: &str) -> (Machine, Vec<String>) {
    let (schema, warnings) = Schema::compile(schema).unwrap_or_else(|e| panic!("{e}: {schema}"));
    (Machine::new(schema.grammar()), warnings)
}

/// Each keyword: what is taken and what is not.
#[test]
fn keywords_mean_what_the_standard_says() {
    for (schema, good, bad) in [
        (
            r#"{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["b"], "additionalProperties": false}"#,
            &[
                r#"{"b":""}"#,
                r#"{"a": 1, "b": "x"}"#,
                "{\n  \"a\": 1,\n  \"b\": \"\"\n}",
            ][..],
            &[
                "{}",
                r#"{"a":1}"#,
                r#"{"b":"","a":1}"#,
                r#"{"b":"","c":1}"#,
                r#"{"a":1.5,"b":""}"#,
                r#" {"b":""}"#,
                "{\n\n\"b\":\"\"}",
            ][..],
        ),
        (
            r#"{"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "null"}}"#,
            &[
                "{}",
                r#"{"a":[{}]}"#,
                r#"{"a":1,"b":null,"aa":null,"":null}"#,
            ],
            &[r#"{"b":1}"#, r#"{"b":null,"a":1}"#, r#"{"\u0061":null}"#],
        ),
        (
            r#"{"type": "array", "prefixItems": [{"const": 1}, {"type": "boolean"}], "items": {"type": "null"}, "minItems": 1, "maxItems": 3}"#,
            &["[1]", "[1,true]", "[1, false, null]"],
            &["[]", "[true]", "[1,true,null,null]", "[1,null]"],
        ),
        (
            r#"{"type": "array", "items": [{"const": 1}], "additionalItems": false}"#,
            &["[]", "[1]"],
            &["[1,1]", "[2]"],
        ),
        (
            r##"{"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "required": ["kids"], "additionalProperties": false}}}"##,
            &[
                r#"{"kids":[]}"#,
                r#"{"kids":[{"kids":[]},{"kids":[{"kids":[]}]}]}"#,
            ],
            &["{}", r#"{"kids":[{}]}"#],
        ),
        (
            r#"{"enum": ["a", 1, null, {"k": [1]}, "ab"]}"#,
            &[r#""a""#, "1", "null", r#"{"k":[1]}"#, r#""ab""#],
            &[r#""b""#, "2", "[1]"],
        ),
        (
            r#"{"type": "string", "enum": ["a", 1, "bcd"], "maxLength": 2}"#,
            &[r#""a""#],
            &["1", r#""bcd""#],
        ),
        (
            r#"{"anyOf": [{"type": "string", "maxLength": 1}, {"type": "integer", "minimum": 10}]}"#,
            &[r#""""#, r#""é""#, "10", "123"],
            &["9", "-10", r#""ab""#],
        ),
        (
            r#"{"type": "object", "allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"a": {"minimum": 3}, "b": {"const": 1}}}]}"#,
            &[r#"{"a":3}"#, r#"{"a":7,"b":1}"#],
            &[r#"{"a":2}"#, r#"{"b":1}"#],
        ),
        (
            r#"{"type": ["integer", "null"], "minimum": -5, "exclusiveMaximum": 12, "multipleOf": 3}"#,
            &["null", "-3", "0", "9"],
            &["12", "-6", "1", "-0", "00", "3.0"],
        ),
        (
            r#"{"type": "number", "minimum": 0.5, "maximum": 10}"#,
            &["0.5", "10", "10.0", "3.25", "9.99999"],
            &["0.4", "10.1", "0", "1e1", "-1", ".5"],
        ),
        (
            r#"{"type": "number", "exclusiveMinimum": 0, "maximum": 1}"#,
            &["1", "0.1", "0.00001"],
            &["0", "0.0", "1.1"],
        ),
        (
            r#"{"type": "number"}"#,
            &["1", "-1.5e10", "0.1", "1E-5"],
            &["01", "1.", "+1", "1e123"],
        ),
        (
            r#"{"type": "string", "pattern": "^[a-c]{2,3}\\d?$"}"#,
            &[r#""ab""#, r#""abc1""#],
            &[r#""a""#, r#""abcd""#, r#""ab12""#],
        ),
        (
            r#"{"type": "string", "pattern": "b"}"#,
            &[r#""b""#, r#""abc""#, r#""b\n""#],
            &[r#""""#, r#""ac""#],
        ),
        (
            r#"{"type": "string", "pattern": "^(ab)*$", "minLength": 3, "maxLength": 6}"#,
            &[r#""abab""#, r#""ababab""#],
            &[r#""ab""#, r#""aba""#, r#""abababab""#],
        ),
        (
            r#"{"type": "string", "minLength": 2, "maxLength": 2}"#,
            &[r#""éx""#, r#""\u00e9\n""#, r#""😀\ud83d\ude00""#],
            &[r#""a""#, r#""abc""#, r#""\ud83dx""#],
        ),
        (
            r#"{"type": "string", "format": "date"}"#,
            &[r#""2024-02-29""#, r#""2023-12-31""#],
            &[r#""2023-02-29""#, r#""2023-13-01""#, r#""23-01-01""#],
        ),
        (
            r#"{"type": "string", "format": "date-time"}"#,
            &[
                r#""2024-02-29T23:59:59Z""#,
                r#""2024-02-01T00:00:00.5+02:00""#,
            ],
            &[r#""2024-02-29""#, r#""2024-02-29T24:00:00Z""#],
        ),
        (
            r#"{"type": "string", "format": "ipv4"}"#,
            &[r#""127.0.0.1""#],
            &[r#""256.0.0.1""#, r#""1.2.3""#],
        ),
        (
            r#"{"type": "object", "patternProperties": {"^n_": {"type": "integer"}, "_s$": {"type": "string"}}, "additionalProperties": false}"#,
            &["{}", r#"{"n_a":1,"a_s":""}"#],
            &[r#"{"a":1}"#, r#"{"n_s":1}"#, r#"{"n_a":""}"#],
        ),
        (
            r#"{"type": "object", "propertyNames": {"pattern": "^[xy]$"}, "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 2}"#,
            &[r#"{"x":1}"#, r#"{"y":1,"x":2}"#],
            &["{}", r#"{"z":1}"#, r#"{"x":1,"y":1,"x":1}"#],
        ),
        (
            r#"{"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "additionalProperties": false}"#,
            &[r#"{"a":1,"b":1}"#, r#"{"b":1,"c":1}"#],
            &[r#"{"a":1}"#, r#"{"c":1}"#, "{}"],
        ),
        (
            r#"{"type": "string", "nullable": true}"#,
            &["null", r#""""#],
            &["1"],
        ),
        (r#"{"not": false, "type": "null"}"#, &["null"], &["1"]),
        (
            "true",
            &["[]", "{}", "0", r#"{"a":[1,{"b":null}]}"#],
            &["", "[1", "nul"],
        ),
        (
            r#"{"properties": {"a": {"const": 1}}}"#,
            &[r#"{"a":1}"#],
            &["1", r#"{"a":2}"#],
        ),
    ] {
        let (mut machine, warnings) = compiled(schema);
        assert!(warnings.is_empty(), "{schema}: {warnings:?}");
        for text in good {
            assert!(takes(&mut machine, text), "{schema}: {text}");
        }
        for text in bad {
            assert!(!takes(&mut machine, text), "{schema}: {text}");
        }
    }
}

#[test]
fn faults_and_what_is_not_held_are_named_with_their_place() {
    for (schema, expected) in [
        (
            r#"{"properties": {"a": {"not": {"type": "null"}}}}"#,
            "properties.a.not: 'not' is not supported",
        ),
        (r#"{"if": {}}"#, "if: 'if' is not supported"),
        (
            r#"{"items": {"contains": {}}}"#,
            "items.contains: 'contains' is not supported",
        ),
        (
            r#"{"type": "strin"}"#,
            "type: found 'strin', expected null, boolean, integer, number, string, array or object",
        ),
        (
            r#"{"properties": {"a": 5}}"#,
            "properties.a: found number, expected object or boolean",
        ),
        (
            r##"{"$ref": "#/$defs/x"}"##,
            "$ref: found '#/$defs/x', expected a schema that is there",
        ),
        (
            r##"{"$ref": "other.json"}"##,
            "$ref: found 'other.json', expected a reference inside the schema",
        ),
        (
            r##"{"anyOf": [{"$ref": "#"}, {"type": "null"}]}"##,
            "the schema leads back to itself without a value between",
        ),
        (
            r#"{"pattern": "^(?=a)"}"#,
            "pattern: pattern, character 1: looking ahead is not supported",
        ),
        (
            r#"{"pattern": "a\\1"}"#,
            "pattern: pattern, character 1: a back reference is not supported",
        ),
        (
            r#"{"pattern": "(a"}"#,
            "pattern: pattern, character 2: found the end, expected ')'",
        ),
        (
            r#"{"pattern": "((a{99}){99}){99}"}"#,
            "pattern: steps of a pattern",
        ),
        (
            r#"{"multipleOf": 0}"#,
            "multipleOf: expected a number above 0",
        ),
        (
            r#"{"minLength": -1}"#,
            "minLength: found -1, expected whole number from 0",
        ),
        ("false", "no value fits the schema"),
        (
            r#"{"type": "string", "minLength": 3, "maxLength": 2}"#,
            "no value fits the schema",
        ),
        (
            r#"{"type": "string", "pattern": "^a{5}$", "maxLength": 4}"#,
            "no value fits the schema",
        ),
        (
            r#"{"type": "integer", "minimum": 5, "maximum": 9, "multipleOf": 10}"#,
            "no value fits the schema",
        ),
        (
            r#"{"type": "object", "properties": {"a": false}, "required": ["a"]}"#,
            "no value fits the schema",
        ),
        (
            r##"{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}"##,
            "no value fits the schema",
        ),
        ("[]", "found array, expected object or boolean"),
        ("{", "byte 1: found the end"),
    ] {
        let message = Schema::compile(schema).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{schema}: {message}");
    }
    for (schema, expected) in [
        (
            r#"{"type": "array", "uniqueItems": true}"#,
            "uniqueItems: is not held: items may come twice",
        ),
        (
            r#"{"properties": {"a": {"type": "string", "format": "regex"}}}"#,
            "properties.a.format: format 'regex' is not held",
        ),
        (
            r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#,
            "oneOf: 'oneOf' is held as 'anyOf', since its branches may overlap",
        ),
    ] {
        assert_eq!(compiled(schema).1, [expected]);
    }
    let apart = r#"{"oneOf": [{"type": "object", "properties": {"k": {"const": 1}}, "required": ["k"]}, {"type": "object", "properties": {"k": {"const": 2}}, "required": ["k"]}, {"type": "null"}]}"#;
    assert!(compiled(apart).1.is_empty());
}

/// What would take for ever or fill the memory is refused, or stays small.
#[test]
fn hostile_schemas_are_bounded() {
    let wide: Vec<String> = (0..3000)
        .map(|n| format!("\"p{n}\":{{\"type\":\"integer\"}}"))
        .collect();
    let wide = format!("{{\"properties\":{{{}}}}}", wide.join(","));
    let (mut machine, _) = compiled(&wide);
    assert!(takes(&mut machine, "{\"p7\":1,\"p8\":2}"));
    let two = r#"{"anyOf":[{"minLength":1},{"maxLength":9}]}"#;
    let many = format!("{{\"allOf\":[{}]}}", vec![two; 20].join(","));
    assert!(
        Schema::compile(&many)
            .unwrap_err()
            .to_string()
            .contains("branches of a value")
    );
    let counted = r#"{"type":"string","pattern":"(a|b)*a(a|b){30}$"}"#;
    assert!(
        Schema::compile(counted)
            .unwrap_err()
            .to_string()
            .contains("pattern")
    );
    let long = r#"{"type":"string","pattern":"^(ab|c)*$","maxLength":100000000}"#;
    assert!(
        Schema::compile(long)
            .unwrap_err()
            .to_string()
            .contains("length of a text by a pattern")
    );
    let chain: Vec<String> = (0..500)
        .map(|n| format!("\"d{n}\":{{\"$ref\":\"#/$defs/d{}\"}}", n + 1))
        .collect();
    let chain = format!(
        "{{\"$ref\":\"#/$defs/d0\",\"$defs\":{{{},\"d500\":{{}}}}}}",
        chain.join(",")
    );
    assert!(
        Schema::compile(&chain)
            .unwrap_err()
            .to_string()
            .contains("more than 64 schemas inside each other")
    );
    let deep: Vec<String> = (0..500)
        .map(|n| {
            format!(
                "\"d{n}\":{{\"type\":\"array\",\"items\":{{\"$ref\":\"#/$defs/d{}\"}}}}",
                n + 1
            )
        })
        .collect();
    let deep = format!(
        "{{\"$ref\":\"#/$defs/d0\",\"$defs\":{{{},\"d500\":{{}}}}}}",
        deep.join(",")
    );
    let (mut machine, _) = compiled(&deep);
    assert!(takes(&mut machine, "[[[]]]"));
    let deep = deep.replace("\"array\"", "\"array\",\"minItems\":1");
    assert!(
        Schema::compile(&deep)
            .unwrap_err()
            .to_string()
            .contains("no value fits")
    );
}
