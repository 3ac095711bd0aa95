//! Fields that several APIs share: how tokens are chosen, where an answer ends, whether the model reasons.

use super::history::word;
use super::ids;
use super::notes::Notes;
use crate::engine::chat::Thinking;
use crate::engine::stops::StopStrings;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::{Adjust, MAX_LAST_N, SamplerOptions};
use crate::error::Result;
use crate::json::{Node, Value};
use crate::units::TokenId;

/// Answers of a request at most; they are given one after the other.
const MAX_ANSWERS: usize = 128;

/// A boolean, false when it is missing.
pub fn flag(at: &Node<'_>, name: &str) -> Result<bool> {
    at.get(name)?.map_or(Ok(false), |node| node.flag())
}

/// A number, also one in a string; an empty string is none, as some clients send for a field that was not filled in.
pub fn number(at: &Node<'_>) -> Result<Option<f64>> {
    match at.text() {
        Err(_) => at.number().map(Some),
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(at.wrong("number")),
        },
    }
}

/// A whole number, also one written with a point.
fn whole(at: &Node<'_>) -> Result<Option<f64>> {
    match number(at)? {
        Some(n) if n.fract() != 0.0 => {
            Err(at.error(&format!("found {n}, expected a whole number")))
        }
        found => Ok(found),
    }
}

/// A count of the first of these names that is there; a negative one stands for no bound, the largest count.
pub fn count(at: &Node<'_>, names: &[&str]) -> Result<Option<usize>> {
    for name in names {
        let Some(node) = at.get(name)? else { continue };
        if let Some(n) = whole(&node)? {
            // The cast keeps what a count can hold.
            return Ok(Some(if n < 0.0 { usize::MAX } else { n as usize }));
        }
    }
    Ok(None)
}

/// `n`: how many answers a request gets.
pub fn n_answers(at: &Node<'_>) -> Result<usize> {
    match count(at, &["n"])?.unwrap_or(1) {
        n if (1..=MAX_ANSWERS).contains(&n) => Ok(n),
        n => {
            let fault = format!("found {n}, expected 1 to {MAX_ANSWERS}");
            Err(at.need("n")?.error(&fault))
        }
    }
}

/// A number within bounds of the first of these names that is there.
fn within(at: &Node<'_>, names: &[&str], least: f64, most: f64) -> Result<Option<f32>> {
    for name in names {
        let Some(node) = at.get(name)? else { continue };
        match number(&node)? {
            None => {}
            Some(x) if (least..=most).contains(&x) => return Ok(Some(x as f32)),
            Some(x) => {
                let expected = format!("expected a number from {least} to {most}");
                return Err(node.error(&format!("found {x}, {expected}")));
            }
        }
    }
    Ok(None)
}

/// `temperature`, `top_p`, `min_p`, `top_k` and `seed`; without a seed, or with -1, every answer has its own.
pub fn sampling(at: &Node<'_>, default: SamplerOptions) -> Result<SamplerOptions> {
    let part = |name: &str, most: f64, default: f32| -> Result<f32> {
        Ok(within(at, &[name], 0.0, most)?.unwrap_or(default))
    };
    let top_k = match count(at, &["top_k"])? {
        None => default.top_k,
        // -1 is another word for all.
        Some(usize::MAX) => 0,
        Some(k) => k,
    };
    Ok(SamplerOptions {
        temperature: part("temperature", 2.0, default.temperature)?,
        top_p: part("top_p", 1.0, default.top_p)?,
        min_p: part("min_p", 1.0, default.min_p)?,
        top_k,
        seed: seed(at)?.unwrap_or_else(ids::random),
    })
}

fn seed(at: &Node<'_>) -> Result<Option<u64>> {
    let Some(node) = at.get("seed")? else {
        return Ok(None);
    };
    if let Ok(seed) = node.count() {
        return Ok(Some(seed));
    }
    // Negative ones are seeds like others, but for the one that stands for none.
    let seed = number(&node)?.filter(|seed| *seed != -1.0);
    Ok(seed.map(|seed| seed as i64 as u64))
}

/// Penalties and biases.
///
/// Errors: `Format`, with the field that is wrong.
pub fn adjust(at: &Node<'_>, tokenizer: &Tokenizer) -> Result<Adjust> {
    let neutral = Adjust::default();
    let part = |names: &[&str], least: f64, most: f64, default: f32| -> Result<f32> {
        Ok(within(at, names, least, most)?.unwrap_or(default))
    };
    // -1 is the whole context.
    let last_n = count(at, &["repeat_last_n"])?.unwrap_or(neutral.last_n);
    let factors = ["repeat_penalty", "repetition_penalty"];
    Ok(Adjust {
        frequency: part(&["frequency_penalty"], -2.0, 2.0, 0.0)?,
        presence: part(&["presence_penalty"], -2.0, 2.0, 0.0)?,
        repeat: part(&factors, 0.01, 100.0, neutral.repeat)?,
        last_n: last_n.min(MAX_LAST_N),
        bias: match at.get("logit_bias")? {
            Some(node) => bias(&node, tokenizer)?,
            None => Vec::new(),
        },
    })
}

/// An object from the numbers of tokens to biases, or a list of pairs of them.
fn bias(at: &Node<'_>, tokenizer: &Tokenizer) -> Result<Vec<(TokenId, f32)>> {
    let one = |token: Option<u64>, node: &Node<'_>| -> Result<(TokenId, f32)> {
        let token = token.filter(|id| *id < tokenizer.len() as u64);
        let token = token.ok_or_else(|| node.error("expected the number of a token"))?;
        match number(node)? {
            Some(bias) if (-100.0..=100.0).contains(&bias) => {
                Ok((TokenId(token as u32), bias as f32))
            }
            _ => Err(node.error(&format!(
                "found {}, expected a number from -100 to 100",
                node.value()
            ))),
        }
    };
    if let Ok(pairs) = at.items() {
        let pair = |pair: Node<'_>| match pair.items()?.collect::<Vec<_>>().as_slice() {
            [token, bias] => one(token.count().ok(), bias),
            _ => Err(pair.error("expected a token and its bias")),
        };
        return pairs.map(pair).collect();
    }
    let members = at.members().map_err(|_| at.wrong("object or array"))?;
    members
        .map(|(name, node)| one(name.parse().ok(), &node))
        .collect()
}

/// Tokens by number.
pub fn tokens(at: &Node<'_>, tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
    let token = |at: Node<'_>| match whole(&at)? {
        Some(id) if (0.0..tokenizer.len() as f64).contains(&id) => Ok(TokenId(id as u32)),
        _ => Err(at.error(&format!(
            "found {}, expected the number of a token",
            at.value()
        ))),
    };
    at.items()?.map(token).collect()
}

/// The stop strings: a string or a list of them, or nothing. Empty ones stand for none.
pub fn stops(at: &Node<'_>, name: &str) -> Result<Vec<String>> {
    let Some(node) = at.get(name)? else {
        return Ok(Vec::new());
    };
    let mut stops = match node.text() {
        Ok(stop) => vec![stop.to_owned()],
        Err(_) => {
            let items = node.items().map_err(|_| node.wrong("string or array"))?;
            let stops = items.map(|item| item.text().map(str::to_owned));
            stops.collect::<Result<Vec<String>>>()?
        }
    };
    stops.retain(|stop| !stop.is_empty());
    match StopStrings::new(stops.clone()) {
        Ok(_) => Ok(stops),
        Err(error) => Err(node.error(&error.to_string())),
    }
}

/// Names the fields of a request that have no effect. `known` are obeyed or read elsewhere; those in [`HARMLESS`] say
/// nothing about the answer.
pub fn name_unknown(at: &Node<'_>, known: &[&str], notes: &mut Notes) -> Result<()> {
    for (name, node) in at.members()? {
        let is_neutral = match node.value() {
            Value::Text(text) if DEFAULTS.contains(&(name, text)) => true,
            Value::List(items) if name == "modalities" => {
                items.iter().all(|item| *item == Value::Text("text".into()))
            }
            Value::Null | Value::Bool(false) | Value::Count(0) => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        if !is_neutral
            && ![known, SAMPLERS, HARMLESS]
                .iter()
                .any(|names| names.contains(&name))
        {
            notes.add(format!("{}: not supported, ignored", word(name)));
        }
    }
    Ok(())
}

/// Fields that say how tokens are chosen: [`sampling`] and [`adjust`].
pub const SAMPLERS: &[&str] = &[
    "temperature",
    "top_p",
    "min_p",
    "top_k",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "repetition_penalty",
    "repeat_last_n",
    "logit_bias",
];

/// Fields that ask for what is done anyway.
const DEFAULTS: [(&str, &str); 2] = [("truncation", "disabled"), ("verbosity", "medium")];

/// Fields without effect on the answer: the user, the purpose, storage, billing, hints for caches.
const HARMLESS: &[&str] = &[
    "model",
    "user",
    "metadata",
    "client_metadata",
    "safety_identifier",
    "service_tier",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "cache_prompt",
    "cache_control",
    "id_slot",
    "slot_id",
    "timings_per_token",
    "return_progress",
    "include",
    "include_reasoning",
    "separate_reasoning",
    "stream_options",
    "add_generation_prompt",
    "betas",
    "anthropic_beta",
    "keep_alive",
    "inference_geo",
    "max_tool_calls",
];

/// How much the model is to reason, by OpenAI's word for it.
pub fn effort(at: &Node<'_>, name: &str) -> Result<Option<Thinking>> {
    let Some(node) = at.get(name)? else {
        return Ok(None);
    };
    match node.text()? {
        "" => Ok(None),
        "none" | "minimal" | "off" | "disable" | "disabled" => Ok(Some(Thinking::Off)),
        "low" | "medium" | "high" | "default" | "auto" => Ok(Some(Thinking::On)),
        "xhigh" | "max" => Ok(Some(Thinking::Max)),
        other => Err(node.error(&format!(
            "found '{other}', expected none, minimal, low, medium, high, xhigh or max"
        ))),
    }
}

/// Whether `thinking` turns reasoning on or off, if it is there.
pub fn thinking(at: &Node<'_>) -> Result<Option<bool>> {
    let Some(node) = at.get("thinking")? else {
        return Ok(None);
    };
    if let Ok(flag) = node.flag() {
        return Ok(Some(flag));
    }
    let kind = node.need("type")?;
    match kind.text()? {
        "enabled" | "adaptive" => Ok(Some(true)),
        "disabled" => Ok(Some(false)),
        other => Err(kind.error(&format!(
            "found '{other}', expected enabled, adaptive or disabled"
        ))),
    }
}
