//! Answers that are held to calls of tools, with the real vocabulary and random logits: what reads answers finds calls, and
//! their arguments are valid by the schemas of the tools.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "schema/validator.rs"]
mod validator;

use common::golden;
use infall::engine::answer::{AnswerParser, End, Event};
use infall::engine::chat::Call;
use infall::engine::{CallForm, Form, GuideVocabulary, Schema, guide, guide_vocabulary};
use infall::gguf::Gguf;
use infall::os::File;
use infall::rng::Rng;
use infall::sampler::guide::Guide;
use infall::sampler::vocabulary::Marks;
use infall::sampler::{Sampler, SamplerOptions};
use infall::text::tokenizer::{Special, Tokenizer};
use infall::text::vocabulary::Vocabulary;
use infall::units::TokenId;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use validator::valid;

const WEATHER: &str = r#"{"type": "object", "properties": {"city \"x\"": {"type": "string", "minLength": 1, "maxLength": 9},
    "days": {"type": "integer", "minimum": 1, "maximum": 10}, "unit": {"enum": ["c", "f", null]},
    "at": {"type": ["string", "array"], "pattern": "^[0-9]{2}$", "items": {"type": "string", "maxLength": 3}, "maxItems": 2}},
    "required": ["city \"x\"", "days"], "additionalProperties": false}"#;

const NOTE: &str = r#"{"type": "object", "properties": {"text": {"type": "string", "maxLength": 12}}, "required": []}"#;

fn real() -> &'static (Tokenizer, Arc<GuideVocabulary>) {
    static REAL: OnceLock<(Tokenizer, Arc<GuideVocabulary>)> = OnceLock::new();
    REAL.get_or_init(|| {
        let file = File::open(&golden("dsv4-vocab.gguf")).unwrap();
        let vocabulary = Vocabulary::read(&Gguf::read(&file).unwrap()).unwrap();
        let tokenizer = Tokenizer::new(vocabulary).unwrap();
        let vocabulary = Arc::new(guide_vocabulary(&tokenizer).unwrap());
        assert!(vocabulary.has_mark());
        (tokenizer, vocabulary)
    })
}

fn schema(text: &str) -> Option<Arc<Schema>> {
    let (schema, warnings) = Schema::compile(text).unwrap();
    assert!(warnings.is_empty());
    Some(Arc::new(schema))
}

fn form(required: bool, parallel: bool) -> CallForm {
    CallForm {
        tools: vec![
            ("weather".into(), schema(WEATHER)),
            ("note".into(), schema(NOTE)),
            ("any".into(), None),
        ],
        required,
        parallel,
    }
}

/// What a reader of answers makes of a text.
fn read(bytes: &[u8], reasoning: bool) -> (String, Vec<Call>) {
    let mut parser = AnswerParser::new(reasoning, true);
    let (mut text, mut all) = (String::new(), Vec::new());
    let mut call = (String::new(), String::new());
    let mut take = |event: Event<'_>| match event {
        Event::Reasoning(_) => {}
        Event::Text(more) => text += more,
        Event::CallBegin(name) => call = (name.to_owned(), String::new()),
        Event::CallArguments(more) => call.1 += more,
        Event::CallEnd => all.push(Call::from_json("", &call.0, &call.1).unwrap()),
        other => panic!("{other:?}"),
    };
    parser.push(bytes, &mut take);
    parser.finish(End::Whole, &mut take);
    (text, all)
}

fn check(call: &Call) {
    let schema = match call.name.as_str() {
        "weather" => WEATHER,
        "note" => NOTE,
        "any" => "{\"type\": \"object\"}",
        other => panic!("{other}"),
    };
    let schema: Value = serde_json::from_str(schema).unwrap();
    let arguments: Value = serde_json::from_str(&call.arguments_json()).unwrap();
    assert!(
        valid(&schema, &arguments, &schema),
        "{}: {arguments}",
        call.name
    );
}

/// Random logits that wish for what ends values and calls.
fn logits(rng: &mut Rng, tokenizer: &Tokenizer, row: &mut [f32]) {
    let offset = rng.next_u64();
    for (i, logit) in row.iter_mut().enumerate() {
        let bits = (i as u64 ^ offset).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        *logit = (bits >> 40) as f32 / (1 << 22) as f32;
    }
    for text in ["\"", "}", "]", ",", "</", "</｜DSML｜", "1", "</think>"] {
        for token in tokenizer.encode(text, Special::Parse) {
            row[token.0 as usize] += 4.0 + 3.0 * rng.uniform();
        }
    }
    row[tokenizer.eos().unwrap().0 as usize] += 9.0;
}

#[test]
fn required_calls_come_and_their_arguments_are_valid() {
    let (tokenizer, vocabulary) = real();
    let end_think = tokenizer.special("</think>");
    let (mut n_ended, mut n_calls) = (0, [0; 3]);
    let mut row = vec![0.0; tokenizer.len()];
    for seed in 1..=30 {
        let mut rng = Rng::new(seed);
        let (parallel, reasoning) = (rng.below(2) == 0, rng.below(2) == 0);
        let options = SamplerOptions {
            temperature: [0.0, 1.0][rng.below(2)],
            seed,
            ..SamplerOptions::default()
        };
        let mut sampler = Sampler::new(options).unwrap();
        let held = Form::Calls(form(true, parallel));
        let behind = end_think.filter(|_| reasoning);
        sampler.set_guide(Some(guide(vocabulary.clone(), &held, behind).unwrap()));
        let mut bytes = Vec::new();
        for _ in 0..300 {
            logits(&mut rng, tokenizer, &mut row);
            let token = sampler.sample(&row).unwrap();
            if Some(token) == tokenizer.eos() {
                let (text, calls) = read(&bytes, reasoning);
                assert_eq!(text, "", "seed {seed}");
                assert!(
                    !calls.is_empty() && (parallel || calls.len() == 1),
                    "seed {seed}"
                );
                for call in &calls {
                    check(call);
                    n_calls[["weather", "note", "any"]
                        .iter()
                        .position(|n| *n == call.name)
                        .unwrap()] += 1;
                }
                n_ended += 1;
                break;
            }
            bytes.extend_from_slice(tokenizer.token_bytes(token));
        }
    }
    eprintln!("{n_ended} of 30 answers ended, calls: {n_calls:?}");
    assert!(
        n_ended > 20 && n_calls.iter().all(|n| *n > 0),
        "{n_ended}, {n_calls:?}"
    );
}

/// Which of some texts, each a token or more, may be said behind a beginning.
fn say(guide: &mut Guide, tokenizer: &Tokenizer, text: &str) -> Result<(), String> {
    for token in tokenizer.encode(text, Special::Parse) {
        if guide.mask().is_some_and(|mask| !mask.allows(token)) {
            let bytes = String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned();
            return Err(bytes);
        }
        guide.accept(token).unwrap();
    }
    Ok(())
}

#[test]
fn what_the_renderer_writes_is_taken_and_what_breaks_the_schema_is_not() {
    let (tokenizer, vocabulary) = real();
    let begin = "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n";
    let parameter = |name: &str, kind: &str, value: &str| {
        format!(
            "<｜DSML｜parameter name=\"{name}\" string=\"{kind}\">{value}</｜DSML｜parameter>\n"
        )
    };
    let city = parameter("city &quot;x&quot;", "true", "Köln");
    let days = parameter("days", "false", "3");
    let end = "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    let note = parameter("text", "true", "a < b </p> \"");
    let empty = "<｜DSML｜invoke name=\"note\">\n\n</｜DSML｜invoke>\n";
    for (text, refused) in [
        (format!("\n\n{begin}{city}{days}{end}"), None),
        (
            format!("{begin}{city}{days}{}{end}", parameter("at", "true", "12")),
            None,
        ),
        (
            format!(
                "{begin}{city}{days}{}{end}",
                parameter("at", "false", "[\"ab\", \"\"]")
            ),
            None,
        ),
        (
            format!("{begin}{city}{days}{}{end}", parameter("unit", "true", "c")),
            None,
        ),
        (
            format!(
                "{begin}{city}{days}{}{end}",
                parameter("unit", "false", "null")
            ),
            None,
        ),
        (
            format!("<｜DSML｜tool_calls>\n{empty}<｜DSML｜invoke name=\"note\">\n{note}{end}"),
            None,
        ),
        (format!("{begin}{city}{end}"), Some("</")),
        (format!("{begin}{days}{end}"), Some("days")),
        (format!("{begin}{city}{city}{end}"), Some("city")),
        (
            format!(
                "{begin}{}",
                parameter("city &quot;x&quot;", "true", "Köln und noch mehr")
            ),
            Some(" noch"),
        ),
        (
            format!("{begin}{city}{}", parameter("days", "false", "11")),
            Some("11"),
        ),
        (
            format!("{begin}{city}{}", parameter("days", "true", "3")),
            Some("true"),
        ),
        ("Hello".into(), Some("Hello")),
        ("<｜DSML｜function_calls>".into(), Some("function")),
        (
            "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"other\">".into(),
            Some("other"),
        ),
    ] {
        let held = Form::Calls(form(true, true));
        let mut guide = guide(vocabulary.clone(), &held, None).unwrap();
        let said = say(&mut guide, tokenizer, &text);
        assert_eq!(said.err().as_deref(), refused, "{text}");
        assert_eq!(guide.is_complete(), refused.is_none(), "{text}");
        if refused.is_none() {
            let (_, calls) = read(text.as_bytes(), false);
            calls.iter().for_each(check);
            assert!(guide.mask().unwrap().allows(tokenizer.eos().unwrap()));
        }
    }
}

#[test]
fn an_answer_that_may_call_is_free_until_it_does() {
    let (tokenizer, vocabulary) = real();
    let eos = tokenizer.eos().unwrap();
    for reasoning in [None, tokenizer.special("</think>")] {
        let held = Form::Calls(form(false, true));
        let mut guide = guide(vocabulary.clone(), &held, reasoning).unwrap();
        say(&mut guide, tokenizer, "Some text <p> and more.\n\n").unwrap();
        assert!(guide.mask().unwrap().allows(eos));
        say(
            &mut guide,
            tokenizer,
            "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"",
        )
        .unwrap();
        assert!(!guide.mask().unwrap().allows(eos));
        assert_eq!(say(&mut guide, tokenizer, "other"), Err("other".into()));
        say(
            &mut guide,
            tokenizer,
            "note\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        )
        .unwrap();
        assert_eq!(guide.mask().unwrap().count(), 1);
    }
    // A call that must come cannot be left out by ending the turn while thinking.
    let held = Form::Calls(form(true, true));
    let mut guide = guide(vocabulary.clone(), &held, tokenizer.special("</think>")).unwrap();
    say(&mut guide, tokenizer, "Let me think <").unwrap();
    let mask = guide.mask().unwrap();
    for mark in [
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "｜DSML｜",
    ] {
        assert!(!mask.allows(tokenizer.special(mark).unwrap()), "{mark}");
    }
    say(&mut guide, tokenizer, "</think>").unwrap();
    assert_eq!(say(&mut guide, tokenizer, "No"), Err("No".into()));
}

/// A vocabulary that has the mark as bytes only: calls come and end all the same.
#[test]
fn calls_are_held_without_a_token_for_their_mark() {
    const END: TokenId = TokenId(256);
    let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let tokens = bytes.iter().map(|byte| Some(&byte[..])).chain([None]);
    let marks = Marks {
        end: END,
        call: None,
        turns: Vec::new(),
    };
    let vocabulary = Arc::new(GuideVocabulary::new(tokens, marks).unwrap());
    for seed in 1..15 {
        let mut sampler = Sampler::new(SamplerOptions {
            seed,
            ..SamplerOptions::default()
        })
        .unwrap();
        let mut held = form(true, false);
        held.tools.truncate(2);
        sampler.set_guide(Some(
            guide(vocabulary.clone(), &Form::Calls(held), None).unwrap(),
        ));
        let mut text = Vec::new();
        for _ in 0..4000 {
            match sampler.sample(&[0.0; 257]).unwrap() {
                END => break,
                token => text.push(token.0 as u8),
            }
        }
        let (said, calls) = read(&text, false);
        assert_eq!(
            (said.as_str(), calls.len()),
            ("", 1),
            "{}",
            String::from_utf8_lossy(&text)
        );
        check(&calls[0]);
    }
    let free = Form::Calls(form(false, true));
    let mut free = guide(vocabulary, &free, None).unwrap();
    for byte in "text <｜DSML｜".bytes() {
        assert!(free.mask().is_none_or(|mask| mask.allows(END)));
        free.accept(TokenId(byte.into())).unwrap();
    }
    assert_eq!(free.mask().unwrap().count(), 1);
}
