//! JSON that stays text, against serde_json: the recogniser byte by byte, strings in both forms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use infall::json::recogniser::{Recogniser, Rules};
use infall::json::source::{as_string, quote};
use infall::rng::Rng;

fn after(bytes: &[u8], rules: Rules) -> Option<Recogniser> {
    bytes
        .iter()
        .try_fold(Recogniser::new(rules), |r, byte| r.next(*byte))
}

/// A random document with whatever the grammar has.
fn document(rng: &mut Rng, depth: usize, out: &mut String) {
    let space = |rng: &mut Rng| ["", "", " ", "\n\t", "\r\n "][rng.below(5)];
    *out += space(rng);
    match rng.below(if depth == 0 { 4 } else { 6 }) {
        0 => *out += ["true", "false", "null"][rng.below(3)],
        1 => *out += ["0", "-0", "12", "-7.25", "1e9", "0.5E-3", "3E+10"][rng.below(7)],
        2 | 3 => string(rng, out),
        4 => {
            out.push('[');
            for i in 0..rng.below(4) {
                *out += if i > 0 { "," } else { "" };
                document(rng, depth - 1, out);
            }
            *out += space(rng);
            out.push(']');
        }
        _ => {
            out.push('{');
            for i in 0..rng.below(4) {
                *out += if i > 0 { "," } else { "" };
                *out += space(rng);
                string(rng, out);
                *out += space(rng);
                out.push(':');
                document(rng, depth - 1, out);
            }
            *out += space(rng);
            out.push('}');
        }
    }
    *out += space(rng);
}

fn string(rng: &mut Rng, out: &mut String) {
    const PARTS: &[&str] = &[
        "a",
        "é",
        "€",
        "👍",
        "\\n",
        "\\\"",
        "\\u00e9",
        "\\ud83d\\udc4d",
        "\\uD7ff",
        "{",
        "\u{7f}",
        "퟿",
    ];
    out.push('"');
    (0..rng.below(5)).for_each(|_| *out += PARTS[rng.below(PARTS.len())]);
    out.push('"');
}

/// Whether serde_json takes the bytes as the start of a text: all of it, or a fault that is only its end.
fn oracle(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(_) => true,
        Err(error) => error.is_eof(),
    }
}

#[test]
fn every_prefix_of_a_document_is_taken() {
    for seed in 1..3000 {
        let mut text = String::new();
        document(&mut Rng::new(seed), 4, &mut text);
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        for rules in [Rules::TEXT, Rules::WRITTEN] {
            let end = after(text.as_bytes(), rules);
            assert!(end.is_some_and(|end| end.is_complete()), "{text:?}");
        }
    }
}

/// Every byte behind every prefix: what serde_json refuses is refused, and complete is what it calls complete.
#[test]
fn a_wrong_byte_is_refused() {
    let mut n_refused = 0;
    for seed in 1..120 {
        let mut text = String::new();
        document(&mut Rng::new(seed), 3, &mut text);
        for at in 0..text.len().min(60) {
            let mut bytes = text.as_bytes()[..at].to_vec();
            let state = after(&bytes, Rules::TEXT).unwrap();
            let whole = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
            assert_eq!(state.is_complete(), whole, "{bytes:?}");
            bytes.push(0);
            for byte in 0..=255 {
                bytes[at] = byte;
                let taken = state.next(byte).is_some();
                // In the middle of a character serde_json tells the end only once the string is whole.
                if !taken {
                    n_refused += 1;
                    let go_on: [&[u8]; 4] = [b"", b"\"", b"0\"", b"000\""];
                    let whole = go_on.iter().any(|rest| {
                        serde_json::from_slice::<serde_json::Value>(&[&bytes, *rest].concat())
                            .is_ok()
                    });
                    assert!(!whole, "refused {bytes:x?}");
                } else if byte.is_ascii() {
                    assert!(oracle(&bytes), "took {:?}", String::from_utf8_lossy(&bytes));
                }
            }
        }
    }
    assert!(n_refused > 100_000);
}

/// From every state that random bytes reach, some byte leads on, and the shortest way out ends in a text.
#[test]
fn no_state_is_a_dead_end() {
    const WAY_OUT: &[u8] = b"\"}]:0ue1dc\\80\x80\xa0\x90 ";
    for seed in 1..3000 {
        let mut rng = Rng::new(seed);
        let rules = [Rules::WRITTEN, Rules::WRITTEN_OBJECT][rng.below(2)];
        let (mut state, mut bytes) = (Recogniser::new(rules), Vec::new());
        for _ in 0..rng.below(80) {
            let start = rng.below(256) as u8;
            // Signs come more often than letters, so that nesting happens.
            let byte = match rng.below(2) {
                0 => b"{[\"\\,:u0-e.] }"[rng.below(14)],
                _ => start,
            };
            if let Some(next) = state.next(byte) {
                (state, _) = (next, bytes.push(byte));
            }
        }
        for _ in 0..400 {
            if state.is_complete() {
                break;
            }
            let all = WAY_OUT.iter().copied().chain(b'!'..=255);
            let (byte, next) = all
                .filter_map(|byte| Some((byte, state.next(byte)?)))
                .find(|(byte, _)| *byte != b' ')
                .unwrap_or_else(|| panic!("seed {seed}: stuck behind {bytes:x?}"));
            (state, _) = (next, bytes.push(byte));
        }
        assert!(state.is_complete(), "seed {seed}");
        if let Err(error) = serde_json::from_slice::<serde_json::Value>(&bytes) {
            // A number may exceed binary64 here; what a model writes is bounded elsewhere.
            let is_number = error.to_string().starts_with("number out of range");
            let text = String::from_utf8_lossy(&bytes);
            assert!(is_number, "seed {seed}: {error}: {text:?}");
        }
    }
}

#[test]
fn strings_come_back_from_either_form() {
    const PARTS: &[&str] = &[
        "\"",
        "\\",
        "\n",
        "\r\t",
        "\u{8}\u{c}\u{1}",
        "é",
        "👍",
        "a/",
        "\\u0041",
        "\u{7f}",
    ];
    for seed in 1..2000 {
        let mut rng = Rng::new(seed);
        let text: String = (0..rng.below(9))
            .map(|_| PARTS[rng.below(PARTS.len())])
            .collect();
        let quoted = quote(&text);
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        assert_eq!(as_string(&quoted).unwrap(), text);
        // All of it as escapes of UTF-16, pairs included.
        let escaped: String = text
            .encode_utf16()
            .map(|unit| format!("\\u{unit:04X}"))
            .collect();
        assert_eq!(as_string(&format!("\"{escaped}\"")).unwrap(), text);
    }
}
