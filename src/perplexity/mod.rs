//! How well a model knows a text, in llama.cpp's terms: a text is cut into windows, and in the second half of each the
//! probability of every next token counts.
//!
//! ```text
//! text -> tokens -> | window 0 | window 1 | ...        a window's first token becomes the start token, if texts have one
//!                     ctx tokens: the first half is read only, rows ctx/2 .. ctx-1 predict the token behind them
//! ```
//!
//! Source: what llama.cpp's `llama-perplexity` computes and prints, and the file of its `--kl-divergence-base`.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::units::TokenId;
use std::ops::Range;

pub mod kld;
pub mod logits_file;
pub mod score;

/// Sizes of a window; the smallest has one row that counts.
pub const WINDOW: std::ops::RangeInclusive<usize> = 4..=1 << 20;

/// A text, cut into windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    tokens: Vec<TokenId>,
    ctx: usize,
    start: Option<TokenId>,
}

/// A prediction that counts.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The window.
    pub window: usize,
    /// `[n_vocab]`
    pub logits: &'a [f32],
    /// The token that follows.
    pub next: TokenId,
}

impl Windows {
    /// Cuts the tokens of a text into windows of `ctx` tokens, at most `most` of them; what is left over is dropped. `start`
    /// is the token that texts begin with, see [`crate::engine::tokenizer::Tokenizer::text_start`].
    ///
    /// Errors: usage errors for a window out of bounds and for a text of less than two windows.
    pub fn of_text(
        mut tokens: Vec<TokenId>,
        ctx: usize,
        start: Option<TokenId>,
        most: usize,
    ) -> Result<Windows> {
        check_window(ctx)?;
        if let Some(start) = start {
            tokens.insert(0, start);
        }
        let n = tokens.len();
        if n < 2 * ctx {
            return Err(Error::usage(format!(
                "the text has {n} tokens, expected at least {}, two windows of {ctx} (--ctx)",
                2 * ctx
            )));
        }
        Windows::cut(tokens, ctx, start, most)
    }

    /// The windows that a file of logits was computed for, at most `most` of them.
    ///
    /// Errors: `most` is 0.
    pub fn of_logits(
        file: &logits_file::Header,
        start: Option<TokenId>,
        most: usize,
    ) -> Result<Windows> {
        Windows::cut(file.tokens.clone(), file.ctx, start, most)
    }

    fn cut(
        mut tokens: Vec<TokenId>,
        ctx: usize,
        start: Option<TokenId>,
        most: usize,
    ) -> Result<Windows> {
        let n_windows = (tokens.len() / ctx).min(most);
        if n_windows == 0 {
            return Err(Error::usage("--chunks: found 0, expected at least 1"));
        }
        tokens.truncate(n_windows * ctx);
        Ok(Windows { tokens, ctx, start })
    }

    /// The tokens of all windows, as the text has them.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens of a window.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// Windows.
    pub fn n_windows(&self) -> usize {
        self.tokens.len() / self.ctx
    }

    /// Rows of a window that count: the last token of a window has none behind it.
    pub fn rows(&self) -> Range<usize> {
        self.ctx / 2..self.ctx - 1
    }

    /// What the model reads of some windows.
    fn input(&self, windows: Range<usize>) -> Vec<TokenId> {
        let mut tokens = self.tokens[windows.start * self.ctx..windows.end * self.ctx].to_vec();
        if let Some(start) = self.start {
            tokens.chunks_mut(self.ctx).for_each(|w| w[0] = start);
        }
        tokens
    }

    /// Computes the windows, `together` at a time, and gives the rows that count to `score` in order. `keep_going(done)`
    /// is told the tokens done and can stop it; then whole windows have been given. Returns their number.
    ///
    /// The engine's context must be a window.
    ///
    /// Errors: a failed read, and those of `score`.
    pub fn compute(
        &self,
        engine: &mut Engine,
        together: usize,
        keep_going: &mut dyn FnMut(usize) -> bool,
        score: &mut dyn FnMut(Row<'_>) -> Result<()>,
    ) -> Result<usize> {
        let together = together.clamp(1, self.n_windows());
        let mut sessions = (0..together)
            .map(|_| engine.session())
            .collect::<Result<Vec<_>>>()?;
        let (rows, n_windows) = (self.rows(), self.n_windows());
        let mut done = 0;
        while done < n_windows {
            let group = done..n_windows.min(done + together);
            let input = self.input(group.clone());
            let sessions = &mut sessions[..group.len()];
            sessions.iter_mut().for_each(|session| session.clear());
            let mut n_rows = 0;
            let mut give = |logits: &[f32]| {
                let window = done + n_rows / rows.len();
                let next = window * self.ctx + rows.start + n_rows % rows.len() + 1;
                n_rows += 1;
                let next = self.tokens[next];
                score(Row {
                    window,
                    logits,
                    next,
                })
            };
            let mut tell = |n| keep_going(done * self.ctx + n);
            let whole =
                engine.prefill_windows(sessions, &input, rows.clone(), &mut tell, &mut give)?;
            if !whole {
                break;
            }
            done = group.end;
        }
        keep_going(done * self.ctx);
        Ok(done)
    }
}

/// An error when windows cannot have this size.
pub fn check_window(ctx: usize) -> Result<()> {
    if WINDOW.contains(&ctx) {
        return Ok(());
    }
    let (least, most) = (WINDOW.start(), WINDOW.end());
    Err(Error::usage(format!(
        "--ctx: found {ctx}, expected {least} to {most} tokens for a window"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: Range<u32>) -> Vec<TokenId> {
        range.map(TokenId).collect()
    }

    #[test]
    fn windows_begin_with_the_start_token_and_do_not_overlap() {
        let start = Some(TokenId(99));
        let windows = Windows::of_text(ids(0..30), 8, start, usize::MAX).unwrap();
        // The start token in front of the text moves all others by one; 31 tokens are 3 windows.
        assert_eq!(windows.n_windows(), 3);
        assert_eq!(windows.tokens()[..3], [TokenId(99), TokenId(0), TokenId(1)]);
        let input = windows.input(1..3);
        assert_eq!(
            input[..2],
            [TokenId(99), TokenId(8)],
            "the text has 7 there"
        );
        assert_eq!(input[8..10], [TokenId(99), TokenId(16)]);
        assert_eq!(windows.rows(), 4..7);

        let plain = Windows::of_text(ids(0..30), 7, None, 2).unwrap();
        assert_eq!((plain.n_windows(), plain.rows()), (2, 3..6));
        assert_eq!(plain.input(1..2), ids(7..14));
    }

    #[test]
    fn short_texts_and_odd_windows_are_refused() {
        let error = |n, ctx, most| Windows::of_text(ids(0..n), ctx, None, most).unwrap_err();
        assert!(
            error(15, 8, 9)
                .to_string()
                .contains("15 tokens, expected at least 16")
        );
        for ctx in [0, 3, (1 << 20) + 1] {
            assert!(
                error(30, ctx, 9)
                    .to_string()
                    .contains(&format!("found {ctx}, "))
            );
        }
        assert!(error(30, 8, 0).to_string().contains("--chunks"));
    }
}
