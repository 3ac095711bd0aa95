//! Strings that end an answer, found across the pieces in which it comes.

use crate::error::{Error, Result};

/// Bounds on what a client may ask for; each piece of an answer is compared with all of it.
struct Limits {
    /// Stop strings of an answer.
    strings: usize,
    /// Bytes of one.
    bytes: usize,
}

const LIMITS: Limits = Limits {
    strings: 32,
    bytes: 256,
};

/// Looks for stop strings and keeps back what may become one.
///
/// The match that ends first counts, of those the one that begins first: what is given out does not depend on how the
/// text was cut into pieces.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// The end of the text so far, as far as it may be the start of a stop string; after [`StopStrings::push`] in front
    /// of it what that gave out.
    held: String,
    /// Bytes of `held` that were given out.
    given: usize,
    stopped: Option<usize>,
}

impl StopStrings {
    /// Errors: `Usage` for an empty string, `Limit` for too many or too long ones.
    pub fn new(stops: Vec<String>) -> Result<StopStrings> {
        if stops.len() > LIMITS.strings {
            return Err(Error::limit("stop strings", stops.len(), LIMITS.strings));
        }
        for stop in &stops {
            if stop.is_empty() {
                return Err(Error::usage("stop string: found none, expected text"));
            }
            if stop.len() > LIMITS.bytes {
                let what = "bytes of a stop string";
                return Err(Error::limit(what, stop.len(), LIMITS.bytes));
            }
        }
        Ok(StopStrings {
            stops,
            ..StopStrings::default()
        })
    }

    /// Takes a piece of the answer and gives what is surely in front of every stop string. After a match it gives
    /// nothing any more.
    pub fn push(&mut self, text: &str) -> &str {
        self.held.drain(..self.given);
        self.given = 0;
        if self.stopped.is_some() {
            return "";
        }
        self.held.push_str(text);
        let held = self.held.as_bytes();
        let found = (0..).zip(&self.stops).filter_map(|(which, stop)| {
            let begin = memchr::memmem::find(held, stop.as_bytes())?;
            Some((begin + stop.len(), begin, which))
        });
        self.given = match found.min() {
            Some((_, begin, which)) => {
                self.stopped = Some(which);
                self.held.truncate(begin);
                begin
            }
            None => {
                let kept = self.stops.iter().map(|stop| begun(&self.held, stop));
                self.held.len() - kept.max().unwrap_or(0)
            }
        };
        &self.held[..self.given]
    }

    /// Ends the answer and gives what was kept back. The matcher can be used for another answer.
    pub fn finish(&mut self) -> &str {
        self.held.drain(..self.given);
        if self.stopped.take().is_some() {
            self.held.clear();
        }
        self.given = self.held.len();
        &self.held
    }

    /// The stop string that was found.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.map(|which| self.stops[which].as_str())
    }
}

/// Bytes at the end of `text` that may be the start of `wanted`, but not all of it.
pub(super) fn begun(text: &str, wanted: &str) -> usize {
    let (text, wanted) = (text.as_bytes(), wanted.as_bytes());
    let longest = wanted.len().saturating_sub(1).min(text.len());
    // Whole characters: both strings are, and a character's first byte looks unlike the others.
    let fits = |n: &usize| text.ends_with(&wanted[..*n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Goes through the whole text, one end after the other.
    fn twin<'a>(stops: &[String], text: &'a str) -> (&'a str, Option<String>) {
        for end in 0..=text.len() {
            let ending = stops
                .iter()
                .filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (&text[..end - stop.len()], Some(stop.clone()));
            }
        }
        (text, None)
    }

    #[test]
    fn equals_the_twin_however_the_text_is_cut() {
        const LETTERS: &[&str] = &["a", "b", "é", "€"];
        let word = |rng: &mut Rng, n: usize| -> String {
            (0..n).map(|_| LETTERS[rng.below(LETTERS.len())]).collect()
        };
        let mut n_stopped = 0;
        for seed in 1..3000 {
            let mut rng = Rng::new(seed);
            let n_stops = rng.below(4);
            let stops: Vec<String> = (0..n_stops)
                .map(|_| {
                    let n = 1 + rng.below(4);
                    word(&mut rng, n)
                })
                .collect();
            let mut matcher = StopStrings::new(stops.clone()).unwrap();
            // Twice, as it can be used anew.
            for _ in 0..2 {
                let text = word(&mut rng, 12);
                let (expected, stop) = twin(&stops, &text);
                let (mut given, mut piece) = (String::new(), String::new());
                for c in text.chars() {
                    piece.push(c);
                    if rng.below(3) == 0 {
                        given += matcher.push(&piece);
                        piece.clear();
                        assert!(expected.starts_with(&given), "seed {seed}");
                    }
                }
                given += matcher.push(&piece);
                assert_eq!(matcher.stopped(), stop.as_deref(), "{stops:?} in {text:?}");
                n_stopped += usize::from(stop.is_some());
                given += matcher.finish();
                assert_eq!(given, expected, "{stops:?} in {text:?}");
            }
        }
        assert!((500..5500).contains(&n_stopped), "{n_stopped}");
    }

    #[test]
    fn no_more_is_kept_back_than_may_become_a_stop() {
        let mut matcher = StopStrings::new(vec!["\n\nUser:".into(), "###".into()]).unwrap();
        assert_eq!(matcher.push("Hi\n"), "Hi");
        assert_eq!(matcher.push("\nUs"), "");
        assert_eq!(matcher.push("e it #"), "\n\nUse it ");
        assert_eq!(matcher.push("#!"), "##!");
        assert_eq!(matcher.push("x###y"), "x");
        assert_eq!(matcher.stopped(), Some("###"));
        assert_eq!((matcher.push("z").len(), matcher.finish()), (0, ""));
        assert_eq!(matcher.push("#"), "");
        assert_eq!(matcher.finish(), "#");
    }

    #[test]
    fn wrong_stops_are_errors() {
        assert!(StopStrings::new(vec![String::new()]).is_err());
        assert!(StopStrings::new(vec!["x".repeat(257)]).is_err());
        assert!(StopStrings::new(vec!["x".into(); 33]).is_err());
        assert!(StopStrings::new(vec!["x".repeat(256); 32]).is_ok());
    }
}
