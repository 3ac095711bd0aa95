//! What a generation gives: its tokens as they are chosen, and how it ended.

use crate::units::TokenId;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    EndOfTurn,
    /// The number of tokens asked for was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller said stop.
    Asked,
}

/// A token that was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The token.
    pub token: TokenId,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What it was chosen from, `[n_vocab]`.
    pub logits: &'a [f32],
}

/// What a generation did.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// Tokens given out; the end-of-turn token is not one of them.
    pub n_tokens: usize,
    /// Why it ended.
    pub stop: Stop,
    /// The last token chosen, which is not in the session yet: it comes before whatever follows.
    pub pending: Option<TokenId>,
}
