//! Patterns that were compiled, each once, and a bound on how much is made of them.

use super::dfa::Dfa;
use super::regex;
use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// States of all automata that are made for a schema, those in between included: about a second.
const MAX_STATES: usize = 1 << 18;

/// The patterns of a schema.
#[derive(Default)]
pub struct Patterns {
    known: RefCell<HashMap<String, Rc<Dfa>>>,
    n_states: Cell<usize>,
}

impl Patterns {
    /// The automaton of a pattern.
    ///
    /// Errors: as [`regex::compile`]; `Limit` when all together are too large.
    pub fn get(&self, pattern: &str) -> Result<Rc<Dfa>> {
        if let Some(known) = self.known.borrow().get(pattern) {
            return Ok(known.clone());
        }
        let compiled = Rc::new(self.made(regex::compile(pattern)?)?);
        let mut known = self.known.borrow_mut();
        known.insert(pattern.to_owned(), compiled.clone());
        Ok(compiled)
    }

    /// An automaton that was made of others.
    ///
    /// Errors: `Limit` when all together are too large.
    pub fn made(&self, dfa: Dfa) -> Result<Dfa> {
        self.n_states.set(self.n_states.get() + dfa.len() + 1);
        match self.n_states.get() {
            n if n > MAX_STATES => Err(Error::limit("states of all patterns", n, MAX_STATES)),
            _ => Ok(dfa),
        }
    }
}
