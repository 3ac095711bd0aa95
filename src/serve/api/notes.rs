//! What a client should know although its request is answered: `infall_warnings`.

/// Warnings of an answer at most; what is wrong in more ways than this is told by the first of them.
const MOST: usize = 32;

/// Warnings, each once.
#[derive(Clone, Debug, Default)]
pub struct Notes(Vec<String>);

impl Notes {
    /// Adds a warning that is not there yet.
    pub fn add(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.0.len() < MOST && !self.0.contains(&note) {
            self.0.push(note);
        }
    }

    /// All of them, in the order in which they came.
    pub fn into_list(self) -> Vec<String> {
        self.0
    }
}
