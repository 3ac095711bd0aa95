//! Fields that several APIs share: how tokens are chosen, where an answer ends, whether the model reasons.

use crate::engine::SamplerOptions;
use crate::engine::chat::Thinking;
use crate::engine::stops::StopStrings;
use crate::error::Result;
use crate::json::Node;

use super::ids;

/// A boolean, false when it is missing.
pub fn flag(at: &Node<'_>, name: &str) -> Result<bool> {
    at.get(name)?.map_or(Ok(false), |node| node.flag())
}

/// A string or nothing.
pub fn text<'a>(at: &Node<'a>, name: &str) -> Result<Option<&'a str>> {
    at.get(name)?.map(|node| node.text()).transpose()
}

/// A whole number from 1 or nothing, of the first of these names that is there.
pub fn positive(at: &Node<'_>, names: &[&str]) -> Result<Option<usize>> {
    for name in names {
        let Some(node) = at.get(name)? else { continue };
        return match node.count()? {
            0 => Err(node.error("found 0, expected a whole number from 1")),
            n => Ok(Some(usize::try_from(n).unwrap_or(usize::MAX))),
        };
    }
    Ok(None)
}

/// An error unless `n` is 1 or missing.
pub fn one_answer(at: &Node<'_>) -> Result<()> {
    match at.get("n")? {
        Some(node) if node.number()? != 1.0 => {
            Err(node.error("expected 1: a request gets one answer"))
        }
        _ => Ok(()),
    }
}

/// `temperature`, `top_p`, `min_p`, `top_k` and `seed`; without a seed, every answer has its own.
pub fn sampling(at: &Node<'_>, default: SamplerOptions) -> Result<SamplerOptions> {
    let within = |name: &str, most: f64, default: f32| -> Result<f32> {
        let Some(node) = at.get(name)? else {
            return Ok(default);
        };
        match node.number()? {
            x if (0.0..=most).contains(&x) => Ok(x as f32),
            x => Err(node.error(&format!("found {x}, expected a number from 0 to {most}"))),
        }
    };
    let top_k = at.get("top_k")?.map(|node| node.count()).transpose()?;
    let seed = at.get("seed")?.map(|node| {
        let seed = node.number()?;
        // Negative ones are seeds like others.
        node.count().or(Ok(seed as i64 as u64))
    });
    Ok(SamplerOptions {
        temperature: within("temperature", 2.0, default.temperature)?,
        top_p: within("top_p", 1.0, default.top_p)?,
        min_p: within("min_p", 1.0, default.min_p)?,
        top_k: top_k.map_or(default.top_k, |k| usize::try_from(k).unwrap_or(usize::MAX)),
        seed: seed.transpose()?.unwrap_or_else(ids::random),
    })
}

/// The stop strings: a string or a list of them, or nothing.
pub fn stops(at: &Node<'_>, name: &str) -> Result<Vec<String>> {
    let Some(node) = at.get(name)? else {
        return Ok(Vec::new());
    };
    let stops = match node.text() {
        Ok(stop) => vec![stop.to_owned()],
        Err(_) => {
            let items = node.items().map_err(|_| node.wrong("string or array"))?;
            let stops = items.map(|item| item.text().map(str::to_owned));
            stops.collect::<Result<Vec<String>>>()?
        }
    };
    match StopStrings::new(stops.clone()) {
        Ok(_) => Ok(stops),
        Err(error) => Err(node.error(&error.to_string())),
    }
}

/// How much the model is to reason, by OpenAI's word for it.
pub fn effort(at: &Node<'_>, name: &str) -> Result<Option<Thinking>> {
    let Some(node) = at.get(name)? else {
        return Ok(None);
    };
    match node.text()? {
        "none" | "minimal" => Ok(Some(Thinking::Off)),
        "low" | "medium" | "high" => Ok(Some(Thinking::On)),
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
    let kind = node.need("type")?;
    match kind.text()? {
        "enabled" | "adaptive" => Ok(Some(true)),
        "disabled" => Ok(Some(false)),
        other => Err(kind.error(&format!(
            "found '{other}', expected enabled, adaptive or disabled"
        ))),
    }
}
