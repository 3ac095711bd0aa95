//! The sessions in memory, and how much of a prompt they spare.
//!
//! ```text
//! session   [ system, tools | user | answer | user | answer ]     tokens that the cache holds
//! prompt    [ system, tools | user | answer'| user ]
//! kept      ------------------------> up to the last point before the first difference
//! points    ^               ^      ^        ^                     where a session can come back to
//! ```
//!
//! A cache overwrites what lies behind its window, so a session cannot go back to any token, only to points that were
//! kept. What a session is about to lose is saved first, if there is a folder for it.

use crate::engine::{Engine, Session, SessionCheckpoint, Store};
use crate::error::Result;
use crate::units::TokenId;

/// What is shorter is not worth a file: it is computed in less than a few seconds.
const LEAST_SAVED: usize = 256;

/// All sessions.
pub struct Live {
    kept: Vec<Kept>,
    /// Points of a session.
    most_points: usize,
    /// Counts prompts.
    clock: u64,
    store: Option<Store>,
}

/// A session with its points, in the order of their tokens.
struct Kept {
    session: Session,
    points: Vec<Point>,
    /// The clock when it was taken last; 0 for never.
    used: u64,
    /// Tokens of it that were saved last.
    saved: usize,
}

/// Where a session can come back to.
struct Point {
    n_tokens: usize,
    state: SessionCheckpoint,
}

/// Which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which(usize);

impl Live {
    /// `n` empty sessions with up to `most_points` points each. With a store, what would be lost is saved there, and
    /// what is found there is not computed.
    ///
    /// Errors: memory is refused.
    pub fn new(
        engine: &mut Engine,
        n: usize,
        most_points: usize,
        store: Option<Store>,
    ) -> Result<Live> {
        let kept = (0..n).map(|_| {
            Ok(Kept {
                session: engine.session()?,
                points: Vec::new(),
                used: 0,
                saved: 0,
            })
        });
        Ok(Live {
            kept: kept.collect::<Result<_>>()?,
            most_points: most_points.max(1),
            clock: 0,
            store,
        })
    }

    /// A session that holds a beginning of `tokens`, the longest that can be had without the last token, whose logits
    /// are needed. What goes wrong with saved sessions is told to `note`.
    ///
    /// Errors: a failed device.
    pub fn take(
        &mut self,
        engine: &mut Engine,
        tokens: &[TokenId],
        note: &mut dyn FnMut(&str),
    ) -> Result<Which> {
        let wanted = &tokens[..tokens.len().saturating_sub(1)];
        let which = self.choose(wanted);
        self.clock += 1;
        let kept = &mut self.kept[which];
        kept.used = self.clock;
        let reused = kept.reusable(wanted);
        if let Some(store) = &self.store {
            if reused < kept.session.tokens().len() / 2 {
                kept.save(engine, store, note);
            }
            let saved = engine.saved_prefix(store, tokens).unwrap_or_else(|error| {
                note(&error.to_string());
                0
            });
            if saved >= reused + LEAST_SAVED {
                kept.restore(engine, store, tokens, note)?;
                return Ok(Which(which));
            }
        }
        kept.rewind(engine, reused)?;
        Ok(Which(which))
    }

    /// The session that has most of `wanted`, if that is at least half of what it holds; else the one that was not used
    /// for longest.
    fn choose(&self, wanted: &[TokenId]) -> usize {
        let all = self.kept.iter().enumerate();
        let best = all.clone().max_by_key(|(_, kept)| kept.reusable(wanted));
        let best = best.filter(|(_, kept)| {
            let (reused, held) = (kept.reusable(wanted), kept.session.tokens().len());
            reused > 0 && 2 * reused >= held
        });
        let oldest = || all.min_by_key(|(_, kept)| kept.used);
        best.or_else(oldest).map_or(0, |(i, _)| i)
    }

    /// The session.
    pub fn session(&mut self, which: Which) -> &mut Session {
        &mut self.kept[which.0].session
    }

    /// Keeps the point where the session is now; the further back, the fewer points are left.
    ///
    /// Errors: memory is refused.
    pub fn keep_point(&mut self, engine: &mut Engine, which: Which) -> Result<()> {
        self.kept[which.0].keep_point(engine, self.most_points)
    }

    /// Tokens of each session, the one used last in front.
    pub fn lengths(&self) -> Vec<usize> {
        let mut all: Vec<&Kept> = self.kept.iter().collect();
        all.sort_by_key(|kept| std::cmp::Reverse(kept.used));
        all.iter().map(|kept| kept.session.tokens().len()).collect()
    }

    /// Saves what is in memory, if there is a folder for it.
    pub fn save(&mut self, engine: &mut Engine, note: &mut dyn FnMut(&str)) {
        if let Some(store) = &self.store {
            for kept in &mut self.kept {
                kept.save(engine, store, note);
            }
        }
    }
}

impl Kept {
    /// Tokens of `wanted` that it holds and can come back to.
    fn reusable(&self, wanted: &[TokenId]) -> usize {
        let held = self.session.tokens();
        let same = held.iter().zip(wanted).take_while(|(a, b)| a == b).count();
        if same == held.len() {
            return same;
        }
        let points = self.points.iter().map(|point| point.n_tokens);
        points.filter(|n| *n <= same).max().unwrap_or(0)
    }

    /// Comes back to `n_tokens`: the end, a point or the beginning.
    fn rewind(&mut self, engine: &mut Engine, n_tokens: usize) -> Result<()> {
        self.saved = if n_tokens < self.saved { 0 } else { self.saved };
        self.points.retain(|point| point.n_tokens <= n_tokens);
        if n_tokens == self.session.tokens().len() {
            return Ok(());
        }
        match self.points.last() {
            Some(point) if point.n_tokens == n_tokens => {
                engine.rewind(&mut self.session, &point.state)
            }
            _ => {
                self.session.clear();
                Ok(())
            }
        }
    }

    fn keep_point(&mut self, engine: &mut Engine, most: usize) -> Result<()> {
        let n_tokens = self.session.tokens().len();
        if self.points.last().is_some_and(|p| p.n_tokens >= n_tokens) {
            return Ok(());
        }
        if self.points.len() == most {
            let places: Vec<usize> = self.points.iter().map(|p| p.n_tokens).collect();
            self.points.remove(least_useful(&places, n_tokens));
        }
        let state = engine.checkpoint(&self.session)?;
        self.points.push(Point { n_tokens, state });
        Ok(())
    }

    /// Takes the longest saved beginning of `tokens` in the place of what it holds.
    fn restore(
        &mut self,
        engine: &mut Engine,
        store: &Store,
        tokens: &[TokenId],
        note: &mut dyn FnMut(&str),
    ) -> Result<()> {
        self.points.clear();
        let restored = engine.restore_prefix(&mut self.session, store, tokens, note);
        self.saved = restored.unwrap_or_else(|error| {
            note(&error.to_string());
            0
        });
        if self.saved > 0 {
            self.keep_point(engine, 1)?;
        }
        Ok(())
    }

    /// Saves it as it was at its last point: what follows is an answer, which seldom comes back as it was.
    fn save(&mut self, engine: &mut Engine, store: &Store, note: &mut dyn FnMut(&str)) {
        let Some(n_tokens) = self.points.last().map(|point| point.n_tokens) else {
            return;
        };
        if n_tokens < LEAST_SAVED || n_tokens <= self.saved {
            return;
        }
        let saved = self
            .rewind(engine, n_tokens)
            .and_then(|()| engine.save(&mut self.session, store, None));
        match saved {
            Ok(_) => self.saved = n_tokens,
            Err(error) => note(&format!("a session was not saved: {error}")),
        }
    }
}

/// Which of some points can be missed best when one at `end` is added: the one whose neighbours are closest to each other
/// for how far back they are. So distances between points grow with the way back.
fn least_useful(places: &[usize], end: usize) -> usize {
    let gap = |i: usize| {
        let before = if i == 0 { 0 } else { places[i - 1] };
        let after = places.get(i + 1).copied().unwrap_or(end);
        (after - before) as f64 / (end - places[i]) as f64
    };
    let order = |a: &usize, b: &usize| gap(*a).total_cmp(&gap(*b));
    (0..places.len()).min_by(order).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_closer_the_nearer_they_are() {
        let mut places: Vec<usize> = Vec::new();
        for end in (1..200).map(|n| 100 * n) {
            if places.len() == 8 {
                places.remove(least_useful(&places, end));
            }
            places.push(end);
        }
        assert_eq!(places.len(), 8);
        assert_eq!(places[7], 19_900);
        let back: Vec<usize> = places.iter().map(|place| 19_900 - place).collect();
        // The last prompts are there, and the way back to a point is never more than three times what is wanted.
        assert!(back[6] <= 300, "{back:?}");
        for pair in back.windows(2).take(6) {
            assert!(pair[0] <= 4 * pair[1].max(100), "{back:?}");
        }
    }
}
