//! Answers that are forced to be JSON, with the real vocabulary and random logits, against serde_json.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::golden;
use infall::engine::{Form, GuideVocabulary, guide, guide_vocabulary};
use infall::gguf::Gguf;
use infall::json::recogniser::Rules;
use infall::os::File;
use infall::rng::Rng;
use infall::sampler::vocabulary::Marks;
use infall::sampler::{Sampler, SamplerOptions};
use infall::text::tokenizer::{Special, Tokenizer};
use infall::text::vocabulary::Vocabulary;
use infall::units::TokenId;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const EOS: TokenId = TokenId(1);

/// The vocabulary of DeepSeek-V4.
fn real() -> &'static (Tokenizer, Arc<GuideVocabulary>) {
    static REAL: OnceLock<(Tokenizer, Arc<GuideVocabulary>)> = OnceLock::new();
    REAL.get_or_init(|| {
        let file = File::open(&golden("dsv4-vocab.gguf")).unwrap();
        let tokenizer =
            Tokenizer::new(Vocabulary::read(&Gguf::read(&file).unwrap()).unwrap()).unwrap();
        let start = Instant::now();
        let vocabulary = Arc::new(guide_vocabulary(&tokenizer).unwrap());
        eprintln!("sorting the vocabulary: {:?}", start.elapsed());
        (tokenizer, vocabulary)
    })
}

/// Random logits over some tokens with a wish for those that open, close and separate, so that values end.
fn logits(rng: &mut Rng, tokenizer: &Tokenizer, logits: &mut [f32]) {
    let offset = rng.next_u64();
    for (i, logit) in logits.iter_mut().enumerate() {
        let bits = (i as u64 ^ offset).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        *logit = (bits >> 40) as f32 / (1 << 22) as f32;
    }
    for text in [
        "\"", "}", "]", ",", ":", "{", "[", "\"}", "\":", "\\", "\\u", "-", "1", "e", "\n", " ",
    ] {
        for token in tokenizer.encode(text, Special::Plain) {
            logits[token.0 as usize] += 4.0 * rng.uniform();
        }
    }
    logits[EOS.0 as usize] += 5.0;
}

/// 300 answers, greedy and drawn, a token at a time; those that end parse, the others are the start of a text.
#[test]
fn answers_under_the_mask_are_json() {
    let (tokenizer, vocabulary) = real();
    let mut n_ended = 0;
    let mut row = vec![0.0; tokenizer.len() + 7]; // a model may have more rows than tokens
    for seed in 1..=300 {
        let mut rng = Rng::new(seed);
        let options = SamplerOptions {
            temperature: [0.0, 0.5, 1.5][rng.below(3)],
            top_k: [0, 50][rng.below(2)],
            seed,
            ..SamplerOptions::default()
        };
        let object = rng.below(2) == 0;
        let rules = if object {
            Rules::WRITTEN_OBJECT
        } else {
            Rules::WRITTEN
        };
        let mut sampler = Sampler::new(options).unwrap();
        sampler.set_guide(Some(
            guide(vocabulary.clone(), &Form::Json(rules), None).unwrap(),
        ));
        let mut bytes = Vec::new();
        for _ in 0..60 {
            logits(&mut rng, tokenizer, &mut row);
            let token = sampler.sample(&row).unwrap();
            if token == EOS {
                break;
            }
            assert!(!tokenizer.is_special(token) && !tokenizer.token_bytes(token).is_empty());
            bytes.extend_from_slice(tokenizer.token_bytes(token));
        }
        let complete = sampler.guide().unwrap().is_complete();
        let shown = String::from_utf8_lossy(&bytes);
        match serde_json::from_slice::<serde_json::Value>(&bytes) {
            Ok(value) => {
                assert!(complete, "seed {seed}: {shown}");
                assert!(!object || value.is_object(), "seed {seed}: {shown}");
                n_ended += 1;
            }
            Err(error) => {
                assert!(!complete && error.is_eof(), "seed {seed}: {error}: {shown}");
            }
        }
    }
    eprintln!("{n_ended} of 300 answers ended");
    assert!((150..300).contains(&n_ended), "{n_ended}");
}

/// The worst states, each a few times; the bound leaves room for other work on the machine.
#[test]
fn a_mask_takes_little_time() {
    let (tokenizer, vocabulary) = real();
    for (what, text) in [
        ("start", ""),
        ("name", "{"),
        ("colon", "{\"a\""),
        ("value", "{\"a\": "),
        ("in a string", "{\"a\": \"some te"),
        ("in a name", "{\"a"),
        ("escape", "[\"\\"),
        ("hexadecimal", "[\"\\u"),
        ("number", "[12"),
        ("after a value", "{\"a\": 1 "),
        ("spaces", "{\n    "),
        ("whole", "{}"),
    ] {
        let mut guide = guide(vocabulary.clone(), &Form::Json(Rules::WRITTEN), None).unwrap();
        for byte in text.bytes() {
            let token = tokenizer.encode(&char::from(byte).to_string(), Special::Plain)[0];
            guide.accept(token).unwrap();
        }
        // The mask of a state is made once; a clone of the guide makes it anew.
        let times = (0..5).map(|_| {
            let mut guide = guide.clone();
            let start = Instant::now();
            guide.mask();
            start.elapsed()
        });
        let time = times.min().unwrap();
        let n_allowed = guide.mask().unwrap().count();
        eprintln!(
            "{what}: {n_allowed} tokens allowed, {:.3} ms",
            time.as_secs_f64() * 1e3
        );
        assert!(
            n_allowed > 0 && time < Duration::from_millis(20),
            "{what}: {time:?}"
        );
    }
}

/// Greedy: the largest logit of those allowed, and the draw never leaves them.
#[test]
fn forbidden_tokens_are_as_if_they_were_not_there() {
    let tokens: [Option<&[u8]>; 6] = [
        Some(b"x"),
        None,
        Some(b"{"),
        Some(b"}"),
        Some(b"["),
        Some(b" "),
    ];
    let marks = Marks {
        end: EOS,
        call: None,
        turns: Vec::new(),
    };
    let vocabulary = Arc::new(GuideVocabulary::new(tokens.into_iter(), marks).unwrap());
    let row = [9.0, 8.0, 1.0, 7.0, 1.5, 0.0];
    let guide = |rules| Some(guide(vocabulary.clone(), &Form::Json(rules), None).unwrap());
    let with = |temperature| SamplerOptions {
        temperature,
        min_p: 0.0,
        ..SamplerOptions::default()
    };
    let mut greedy = Sampler::new(with(0.0)).unwrap();
    for (rules, expected) in [(Rules::WRITTEN_OBJECT, 2), (Rules::WRITTEN, 4)] {
        greedy.set_guide(guide(rules));
        assert_eq!(greedy.sample(&row).unwrap(), TokenId(expected));
    }
    greedy.set_guide(guide(Rules::WRITTEN_OBJECT));
    let answer: Vec<u32> = (0..4).map(|_| greedy.sample(&row).unwrap().0).collect();
    assert_eq!(answer, [2, 3, 1, 1]);
    greedy.set_guide(None);
    assert_eq!(greedy.sample(&row).unwrap(), TokenId(0));
    let mut seen = [0; 6];
    for seed in 1..2000 {
        for top_p in [1.0, 0.999] {
            let mut drawn = Sampler::new(SamplerOptions {
                seed,
                top_p,
                ..with(1.0)
            })
            .unwrap();
            drawn.set_guide(guide(Rules::WRITTEN));
            seen[drawn.sample(&row).unwrap().0 as usize] += 1;
        }
    }
    assert!(seen[0] == 0 && seen[1] == 0 && seen[3] == 0, "{seen:?}");
    // Nor does an answer begin with a space.
    assert!(
        seen[2] > 500 && seen[4] > seen[2] && seen[5] == 0,
        "{seen:?}"
    );
    // A row that knows no allowed token is an error, and the guide stays where it was.
    greedy.set_guide(guide(Rules::WRITTEN_OBJECT));
    assert!(greedy.sample(&[1.0, 1.0]).is_err());
    assert_eq!(greedy.sample(&row).unwrap(), TokenId(2));
}

/// What holding an answer adds to the choice of its tokens: whole answers with the same logits, free and held. The bound
/// leaves room for other work on the machine.
#[test]
fn holding_an_answer_costs_little() {
    let (tokenizer, vocabulary) = real();
    let schema = |text: &str| {
        let (schema, _) = infall::engine::Schema::compile(text).unwrap();
        Form::Schema(Arc::new(schema))
    };
    let person = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0,
        "maximum": 150}, "tags": {"type": "array", "items": {"enum": ["a", "b", "long one"]}}}, "required": ["name", "age"],
        "additionalProperties": false}"#;
    let bounded = r#"{"type": "array", "items": {"type": "string", "maxLength": 300, "pattern": "^[^<>]*$"}}"#;
    for (what, form) in [
        ("any object", Form::Json(Rules::WRITTEN_OBJECT)),
        ("a person", schema(person)),
        ("strings with a bound and a pattern", schema(bounded)),
    ] {
        let (mut free, mut held, mut n) = (Duration::ZERO, Duration::ZERO, 0);
        let mut row = vec![0.0; tokenizer.len()];
        for seed in 1..=4 {
            let mut rng = Rng::new(seed);
            let options = SamplerOptions {
                seed,
                ..SamplerOptions::default()
            };
            let (mut plain, mut guided) = (
                Sampler::new(options).unwrap(),
                Sampler::new(options).unwrap(),
            );
            guided.set_guide(Some(guide(vocabulary.clone(), &form, None).unwrap()));
            for _ in 0..100 {
                logits(&mut rng, tokenizer, &mut row);
                let start = Instant::now();
                plain.sample(&row).unwrap();
                let between = Instant::now();
                let token = guided.sample(&row).unwrap();
                held += between.elapsed();
                free += between - start;
                n += 1;
                if token == EOS {
                    break;
                }
            }
        }
        let per_token = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(n);
        eprintln!(
            "{what}: {n} tokens, free {:.2} ms each, held {:.2} ms",
            per_token(free),
            per_token(held)
        );
        assert!(held < 20 * free + Duration::from_secs(1), "{what}");
    }
}
