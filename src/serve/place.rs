//! In which session a prompt is computed.
//!
//! A prompt that goes on with a conversation stays in its session. Any other, be it a new conversation, a title or an
//! edited turn, takes the place of what is cheapest to lose: the tokens that would have to be computed again, divided by
//! the prompts that came since they were used. So a long conversation outlives many short prompts beside it, and an
//! abandoned one makes room in the end: sparing `n` tokens for `k` prompts costs at most `n (1 + ln k)` tokens computed
//! elsewhere, as at the `i`th of these prompts no more than `n / i` are lost instead.

/// What a session holds, seen from a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Tokens of the prompt that it can come back to.
    pub reusable: usize,
    /// Whether the prompt goes on with all that was asked there last.
    pub goes_on: bool,
    /// Tokens that neither the prompt nor another session has.
    pub alone: usize,
    /// Prompts since it was used, this one included.
    pub idle: u64,
}

/// Where a prompt is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The session that holds most of the prompt.
    pub from: usize,
    /// The session to compute it in.
    pub to: usize,
}

/// The place of a prompt among the sessions, of which there is at least one.
pub fn place(sessions: &[Seen]) -> Place {
    let all = || sessions.iter().enumerate();
    // The last of equals is taken: of those that go on before others.
    let from = all().max_by_key(|(_, seen)| (seen.reusable, seen.goes_on));
    let from = from.map_or(0, |(i, _)| i);
    let goes_on = sessions.get(from).is_some_and(|seen| seen.goes_on);
    let cost = |seen: &Seen| seen.alone as f64 / seen.idle.max(1) as f64;
    let cheapest = all().min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b)));
    let to = match cheapest {
        Some((to, _)) if !goes_on => to,
        _ => from,
    };
    Place { from, to }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Sessions without an engine: what each holds, what was asked last, and when. They can come back to any token.
    struct Sessions {
        held: Vec<(Vec<u32>, usize, u64)>,
        clock: u64,
        n_computed: usize,
        /// The one used longest ago is taken instead, as the simplest rule.
        simple: bool,
    }

    impl Sessions {
        fn new(n: usize, simple: bool) -> Sessions {
            let held = vec![(Vec::new(), 0, 0); n];
            Sessions {
                held,
                clock: 0,
                n_computed: 0,
                simple,
            }
        }

        fn ask(&mut self, prompt: &[u32]) -> usize {
            self.clock += 1;
            let same = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
            let seen = |i: usize| {
                let (held, asked, used) = &self.held[i];
                let reusable = same(held, prompt);
                let others = self.held.iter().enumerate().filter(|(j, _)| *j != i);
                let others = others.map(|(_, (other, ..))| same(held, other));
                Seen {
                    reusable,
                    goes_on: reusable > 0 && reusable >= *asked,
                    alone: held.len() - others.chain([reusable]).max().unwrap_or(0),
                    idle: self.clock - used,
                }
            };
            let all: Vec<Seen> = (0..self.held.len()).map(seen).collect();
            let mut place = place(&all);
            if self.simple && !all[place.from].goes_on {
                let oldest = (0..all.len()).max_by_key(|i| all[*i].idle);
                place.to = oldest.unwrap();
            }
            let n = prompt.len() - all[place.from].reusable;
            self.held[place.to] = (prompt.to_vec(), prompt.len(), self.clock);
            self.n_computed += n;
            n
        }
    }

    /// Tokens of a text, of its own.
    fn text(which: u32, n: usize) -> Vec<u32> {
        (0..n as u32).map(|i| which * 1_000_000 + i).collect()
    }

    #[test]
    fn side_requests_never_cost_the_conversation() {
        let mut sessions = Sessions::new(2, false);
        let mut talk = text(0, 20_000);
        for turn in 1..200 {
            talk.extend(text(turn, 50));
            let n = sessions.ask(&talk);
            assert!(turn == 1 || n == 50, "turn {turn}: {n} computed");
            // Up to three titles or topics between two turns, sometimes with the conversation's own system text.
            for side in 0..turn % 4 {
                let mut title = talk[..if turn % 3 == 0 { 15_000 } else { 0 }].to_vec();
                title.extend(text(1000 + 4 * turn + side, 300));
                sessions.ask(&title);
            }
        }
    }

    #[test]
    fn an_abandoned_conversation_makes_room() {
        let mut sessions = Sessions::new(2, false);
        sessions.ask(&text(0, 50_000));
        // Another one comes, with a title after each turn.
        let (mut talk, mut again) = (text(1, 4000), 0);
        for turn in 0..100 {
            talk.extend(text(2 + turn, 200));
            let n = sessions.ask(&talk);
            again += n - 200.min(n);
            sessions.ask(&text(500 + turn, 300));
        }
        let kept = sessions.held.iter().any(|(held, ..)| held.len() == 50_000);
        assert!(!kept && again > 0);
        // The bound that is promised, for 200 prompts.
        let most = 50_000.0 * (1.0 + 200f64.ln());
        assert!((again as f64) < most, "{again} of at most {most}");
        // From then on nothing is lost.
        sessions.n_computed = 0;
        for turn in 0..50 {
            talk.extend(text(200 + turn, 200));
            sessions.ask(&talk);
            sessions.ask(&text(700 + turn, 300));
        }
        assert_eq!(sessions.n_computed, 50 * 500);
    }

    #[test]
    fn an_edited_turn_leaves_the_old_one_in_the_place_that_costs_least() {
        let mut sessions = Sessions::new(2, false);
        let talk = text(0, 5000);
        sessions.ask(&talk);
        let mut edited = talk[..1000].to_vec();
        edited.extend(text(1, 500));
        assert_eq!(sessions.ask(&edited), 500);
        // Both ways are there.
        assert_eq!(sessions.ask(&[&talk[..], &text(2, 10)].concat()), 10);
        assert_eq!(sessions.ask(&[&edited[..], &text(3, 10)].concat()), 10);
    }

    /// Mixes of conversations that grow, side requests, and ones that are left: never much worse than the simple rule, and
    /// where conversations are long and others short, much better.
    #[test]
    fn mixes_cost_no_more_than_by_the_simple_rule() {
        let (mut ours, mut simple) = (0, 0);
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let n = 2 + rng.below(3);
            let mut both = [Sessions::new(n, false), Sessions::new(n, true)];
            let mut talks: Vec<Vec<u32>> = Vec::new();
            for step in 0..300u32 {
                let prompt = match rng.below(10) {
                    0 if talks.len() < 40 => {
                        talks.push(text(step, 500 + rng.below(20_000)));
                        talks.last().cloned().unwrap()
                    }
                    1..=3 => text(step, 50 + rng.below(400)),
                    _ if talks.is_empty() => continue,
                    // Mostly the newest one.
                    _ => {
                        let back = rng.below(3).min(rng.below(3)).min(talks.len() - 1);
                        let at = talks.len() - 1 - back;
                        talks[at].extend(text(step, 20 + rng.below(300)));
                        talks[at].clone()
                    }
                };
                for sessions in &mut both {
                    sessions.ask(&prompt);
                }
            }
            ours += both[0].n_computed;
            simple += both[1].n_computed;
        }
        println!("{ours} tokens computed, {simple} by the simple rule");
        assert!(5 * ours < 4 * simple, "{ours}, {simple}");
    }
}
