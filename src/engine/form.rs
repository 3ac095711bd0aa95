//! What an answer is held to, whichever API asked for it.

use super::JsonRules;
use crate::error::{Error, Result};
use crate::sampler::guide::{Guide, Opening};
use crate::sampler::vocabulary::{self, GuideVocabulary, Marks};
use crate::schema::Schema;
use crate::text::call_grammar::{self, CallForm};
use crate::text::tokenizer::Tokenizer;
use crate::units::TokenId;
use std::sync::Arc;

/// The form of an answer, which the choice of tokens holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Any JSON, or any object, as these rules tell.
    Json(JsonRules),
    /// JSON that a schema allows.
    Schema(Arc<Schema>),
    /// Calls of tools.
    Calls(CallForm),
}

/// The marks with which a turn ends, or another begins.
const TURNS: [&str; 3] = ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"];

/// The tokens of which held answers can be made.
///
/// Errors: `Unsupported` when no token ends an answer.
pub fn guide_vocabulary(tokenizer: &Tokenizer) -> Result<GuideVocabulary> {
    let end = tokenizer.eos().ok_or_else(|| {
        Error::unsupported("no answer of a given form with this vocabulary: it has no end token")
    })?;
    let tokens = (0..tokenizer.len() as u32).map(TokenId);
    let plain = |token| (!tokenizer.is_special(token)).then(|| tokenizer.token_bytes(token));
    let marks = Marks {
        end,
        call: tokenizer.special(call_grammar::MARK),
        turns: TURNS
            .iter()
            .filter_map(|mark| tokenizer.special(mark))
            .collect(),
    };
    GuideVocabulary::new(tokens.map(plain), marks)
}

impl Form {
    /// Whether it can be held, besides what a vocabulary lacks.
    ///
    /// Errors: as [`guide`].
    pub fn check(&self) -> Result<()> {
        match self {
            Form::Json(_) | Form::Schema(_) => Ok(()),
            Form::Calls(form) => form.grammar(call_grammar::MARK.as_bytes()).map(|_| ()),
        }
    }
}

/// A guide that holds an answer to `form`. With `behind` the answer is free up to that token, which ends the reasoning, but
/// cannot end before.
///
/// Errors: `Usage` for calls without tools; `Limit` for schemas of tools that become too large in the markup of calls.
pub fn guide(
    vocabulary: Arc<GuideVocabulary>,
    form: &Form,
    behind: Option<TokenId>,
) -> Result<Guide> {
    let (grammar, with) = match form {
        Form::Json(rules) => (Schema::json(rules.is_object())?.grammar(), None),
        Form::Schema(schema) => (schema.grammar(), None),
        Form::Calls(form) => {
            let mark = match vocabulary.has_mark() {
                true => &[vocabulary::MARK][..],
                false => call_grammar::MARK.as_bytes(),
            };
            let with = (!form.required).then(|| call_grammar::opening(mark));
            (Arc::new(form.grammar(mark)?), with)
        }
    };
    Ok(Guide::new(vocabulary, grammar, Opening { behind, with }))
}
