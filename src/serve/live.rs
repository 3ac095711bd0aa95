//! The sessions in memory, and how much of a prompt they spare.
//!
//! ```text
//! session   [ system, tools | user | answer | user | answer ]     tokens that the cache holds
//! prompt    [ system, tools | user | answer'| user ]
//! kept      ------------------------> up to the last point before the first difference
//! points                    ^      ^        ^                     where a session can come back to
//! ```
//!
//! A cache overwrites what lies behind its window, so a session cannot go back to any token, only to points that were
//! kept: where the system text ends, which other conversations share, and where prompts ended. A prompt that leaves a
//! conversation at a point is computed in another session, which takes over what both share; [`super::place`] says in
//! which. What a session is about to lose is saved first, if there is a folder for it.

use super::place::{Seen, place};
use crate::engine::{Engine, Session, SessionCheckpoint, Store};
use crate::error::Result;
use crate::units::TokenId;
use std::rc::Rc;

/// What is shorter is not worth a file. With experts on disk a token read again costs about as much as a token of an
/// answer, so this is some seconds of work; a file of so few tokens is mostly the states of its points.
const LEAST_SAVED: usize = 64;

/// Of so many last prompts the ends are saved with a session, besides its shared points.
const SAVED_PROMPTS: usize = 2;

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
    /// Tokens of the last prompt, but for its last one.
    asked: usize,
    /// Whether the answer at its end will come back as it is.
    answer_stays: bool,
    /// Tokens of it that were saved last.
    saved: usize,
}

/// Where a session can come back to. Two sessions that hold the same tokens up to it share its state.
#[derive(Clone)]
struct Point {
    state: Rc<SessionCheckpoint>,
    /// Whether other conversations may come back to it: it is kept as long as the session holds it.
    is_shared: bool,
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
                asked: 0,
                answer_stays: false,
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
        self.clock += 1;
        let seen: Vec<Seen> = (0..self.kept.len()).map(|i| self.seen(i, wanted)).collect();
        let place = place(&seen);
        let (from, to) = (seen[place.from], seen[place.to]);
        let mut restored = false;
        if let Some(store) = &self.store {
            let saved = engine.saved_prefix(store, tokens).unwrap_or_else(|error| {
                note(&error.to_string());
                None
            });
            let saved = saved.filter(|saved| saved.n_tokens >= from.reusable + LEAST_SAVED);
            let kept = &mut self.kept[place.to];
            if !to.goes_on && 2 * to.alone > kept.session.tokens().len() {
                // The file that is needed now must not make room for it.
                let spared = saved.as_ref().map(|saved| saved.name.as_str());
                kept.save(engine, store, spared, note);
            }
            if saved.is_some() {
                kept.restore(engine, store, tokens, self.most_points, note);
                restored = kept.session.tokens().len() >= from.reusable + LEAST_SAVED;
            }
        }
        if restored {
        } else if place.from == place.to {
            self.kept[place.to].rewind(engine, from.reusable)?;
        } else {
            self.copy(engine, place.from, place.to, from.reusable)?;
        }
        let kept = &mut self.kept[place.to];
        kept.used = self.clock;
        kept.asked = wanted.len();
        kept.answer_stays = false;
        Ok(Which(place.to))
    }

    /// What session `i` holds, seen from a prompt.
    fn seen(&self, i: usize, wanted: &[TokenId]) -> Seen {
        let kept = &self.kept[i];
        let held = kept.session.tokens();
        let others = self.kept.iter().enumerate().filter(|(j, _)| *j != i);
        let others = others.map(|(_, other)| n_same(held, other.session.tokens()));
        let known = others.chain([n_same(held, wanted)]).max().unwrap_or(0);
        let reusable = kept.reusable(wanted);
        Seen {
            reusable,
            goes_on: reusable > 0 && (reusable == held.len() || reusable >= kept.asked),
            alone: held.len() - known,
            idle: self.clock - kept.used,
        }
    }

    /// Puts the first `n_tokens` of a session, up to a point, in the place of what another holds.
    fn copy(&mut self, engine: &mut Engine, from: usize, to: usize, n_tokens: usize) -> Result<()> {
        let points = &self.kept[from].points;
        let points: Vec<Point> = points
            .iter()
            .filter(|p| p.n_tokens() <= n_tokens)
            .cloned()
            .collect();
        self.kept[to].forget();
        let Some(last) = points.last().filter(|last| last.n_tokens() == n_tokens) else {
            return Ok(());
        };
        let Ok([from, to]) = self.kept.get_disjoint_mut([from, to]) else {
            return Ok(());
        };
        engine.copy(&mut to.session, &from.session, &last.state)?;
        to.points = points;
        Ok(())
    }

    /// The session.
    pub fn session(&mut self, which: Which) -> &mut Session {
        &mut self.kept[which.0].session
    }

    /// Keeps a point of the session; the further back, the fewer points are left, but for shared ones.
    pub fn keep_point(&mut self, which: Which, state: SessionCheckpoint, is_shared: bool) {
        let state = Rc::new(state);
        let point = Point { state, is_shared };
        self.kept[which.0].keep_point(point, self.most_points);
    }

    /// The answer of the session ended; `stays` when it will come back as it is.
    pub fn answered(&mut self, which: Which, stays: bool) {
        self.kept[which.0].answer_stays = stays;
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
                kept.save(engine, store, None, note);
            }
        }
    }
}

impl Point {
    fn n_tokens(&self) -> usize {
        self.state.n_tokens()
    }
}

impl Kept {
    /// Tokens of `wanted` that it holds and can come back to.
    fn reusable(&self, wanted: &[TokenId]) -> usize {
        let held = self.session.tokens();
        let same = n_same(held, wanted);
        if same == held.len() {
            return same;
        }
        let points = self.points.iter().map(Point::n_tokens);
        points.filter(|n| *n <= same).max().unwrap_or(0)
    }

    fn forget(&mut self) {
        self.session.clear();
        self.points.clear();
        (self.asked, self.saved) = (0, 0);
    }

    /// Comes back to `n_tokens`: the end, a point or the beginning.
    fn rewind(&mut self, engine: &mut Engine, n_tokens: usize) -> Result<()> {
        self.saved = if n_tokens < self.saved { 0 } else { self.saved };
        // An error may have emptied the session.
        self.points.retain(|point| point.n_tokens() <= n_tokens);
        if n_tokens == self.session.tokens().len() {
            return Ok(());
        }
        match self.points.last() {
            Some(point) if point.n_tokens() == n_tokens => {
                engine.rewind(&mut self.session, &point.state)
            }
            _ => {
                self.forget();
                Ok(())
            }
        }
    }

    fn keep_point(&mut self, point: Point, most: usize) {
        let n_tokens = point.n_tokens();
        if self.points.last().is_some_and(|p| p.n_tokens() >= n_tokens) {
            return;
        }
        if self.points.len() >= most {
            let places: Vec<usize> = self.points.iter().map(Point::n_tokens).collect();
            let is_free = |i: &usize| !self.points[*i].is_shared;
            let goes = least_useful(&places, n_tokens, is_free);
            self.points.remove(goes);
        }
        self.points.push(point);
    }

    /// Takes the longest saved beginning of `tokens` in the place of what it holds; nothing if that fails.
    fn restore(
        &mut self,
        engine: &mut Engine,
        store: &Store,
        tokens: &[TokenId],
        most_points: usize,
        note: &mut dyn FnMut(&str),
    ) {
        self.forget();
        match engine.restore_with_points(&mut self.session, store, tokens, note) {
            Ok(points) => {
                self.saved = self.session.tokens().len();
                let first = points.len().saturating_sub(most_points);
                self.points = points
                    .into_iter()
                    .skip(first)
                    .map(|(state, is_shared)| Point {
                        state: Rc::new(state),
                        is_shared,
                    })
                    .collect();
            }
            Err(error) => note(&error.to_string()),
        }
    }

    /// Saves it as it will come back: up to its end if the answer stays, else up to its last point. What the next prompt
    /// needs, `spared`, is not removed to make room.
    fn save(
        &mut self,
        engine: &mut Engine,
        store: &Store,
        spared: Option<&str>,
        note: &mut dyn FnMut(&str),
    ) {
        let n_tokens = match self.points.last() {
            _ if self.answer_stays => self.session.tokens().len(),
            Some(point) => point.n_tokens(),
            None => return,
        };
        if n_tokens < LEAST_SAVED || n_tokens <= self.saved {
            return;
        }
        let saved = self.rewind(engine, n_tokens).and_then(|()| {
            let first = self.points.len().saturating_sub(SAVED_PROMPTS);
            let points = self.points.iter().enumerate();
            let points = points.filter(|(i, point)| *i >= first || point.is_shared);
            let points = points.map(|(_, point)| (&*point.state, point.is_shared));
            let points: Vec<(&SessionCheckpoint, bool)> = points.collect();
            engine.save_with_points(&mut self.session, store, &points, spared)
        });
        match saved {
            Ok(_) => self.saved = n_tokens,
            Err(error) => note(&format!("a session was not saved: {error}")),
        }
    }
}

/// Tokens with which both begin.
fn n_same(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Which of some points can be missed best when one at `end` is added, of those that are free: the one whose neighbours are
/// closest to each other for how far back they are. So distances between points grow with the way back.
fn least_useful(places: &[usize], end: usize, is_free: impl Fn(&usize) -> bool) -> usize {
    let gap = |i: usize| {
        let before = if i == 0 { 0 } else { places[i - 1] };
        let after = places.get(i + 1).copied().unwrap_or(end);
        (after - before) as f64 / (end - places[i]) as f64
    };
    let order = |a: &usize, b: &usize| gap(*a).total_cmp(&gap(*b));
    (0..places.len()).filter(is_free).min_by(order).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_closer_the_nearer_they_are() {
        let mut places: Vec<usize> = Vec::new();
        for end in (1..200).map(|n| 100 * n) {
            if places.len() == 8 {
                places.remove(least_useful(&places, end, |_| true));
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
