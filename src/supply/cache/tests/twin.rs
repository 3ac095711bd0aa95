//! A plain model of the cache.

use super::{Lab, N_EXPERT, Step, counts};
use crate::supply::policy::Worth;
use std::collections::{BTreeSet, VecDeque};

/// A cache without I/O: sets and lists, looked through from end to end.
pub struct Twin {
    lens: Vec<u64>,
    budget: u64,
    worth: Worth,
    /// With a slab.
    resident: Vec<usize>,
    /// Of these, the ones that can be read.
    pub ready: BTreeSet<usize>,
    /// Of these, the ones not to be given up.
    kept: BTreeSet<usize>,
    expected: Vec<usize>,
    pub hits: u64,
    /// Those that had to be read.
    pub missed: Vec<usize>,
    pub evictions: u64,
}

impl Twin {
    /// For the cache of `lab`, before its first use.
    pub fn of(lab: &Lab) -> Twin {
        Twin {
            lens: lab.cache.layouts.iter().map(|l| l.len() as u64).collect(),
            budget: lab.cache.options.budget,
            worth: Worth::new(lab.cache.options.policy, lab.cache.entries.len()),
            resident: Vec::new(),
            ready: BTreeSet::new(),
            kept: BTreeSet::new(),
            expected: Vec::new(),
            hits: 0,
            missed: Vec::new(),
            evictions: 0,
        }
    }

    fn place(&mut self, key: usize) -> bool {
        let len = |key: &usize| self.lens[*key / N_EXPERT];
        while self.resident.iter().map(len).sum::<u64>() + len(&key) > self.budget {
            let can_go = |k: &usize| self.ready.contains(k) && !self.kept.contains(k);
            let Some(victim) = self
                .worth
                .least(self.resident.iter().copied().filter(can_go))
            else {
                return false;
            };
            self.ready.remove(&victim);
            self.resident.retain(|k| *k != victim);
            self.evictions += 1;
        }
        self.resident.push(key);
        self.kept.insert(key);
        true
    }

    fn drop_expected(&mut self, key: usize) {
        self.kept.remove(&key);
        let ready = &self.ready;
        self.resident.retain(|k| *k != key || ready.contains(k));
    }

    /// What the cache does at this step.
    pub fn step(&mut self, step: &Step) {
        let key = |layer: usize, e: u32| layer * N_EXPERT + e as usize;
        match step {
            Step::Token => self.worth.token(),
            Step::Expect(layer, experts) => {
                for key in experts.iter().map(|e| key(*layer, *e)) {
                    let held: u64 = self.expected.iter().map(|k| self.lens[k / N_EXPERT]).sum();
                    let fits = held + self.lens[*layer] <= self.budget;
                    if self.kept.contains(&key)
                        || !(self.resident.contains(&key) || fits && self.place(key))
                    {
                        continue;
                    }
                    self.kept.insert(key);
                    self.expected.push(key);
                }
            }
            Step::Layer(layer, experts) => {
                let chosen: Vec<usize> = experts.iter().map(|e| key(*layer, *e)).collect();
                self.layer(*layer, &chosen, &counts(experts));
            }
        }
    }

    fn layer(&mut self, layer: usize, chosen: &[usize], counts: &[usize]) {
        for key in std::mem::take(&mut self.expected) {
            match key / N_EXPERT > layer {
                true => self.expected.push(key),
                false if chosen.contains(&key) => {}
                false => self.drop_expected(key),
            }
        }
        (0..chosen.len()).for_each(|i| self.worth.touch(chosen[i], counts[i]));
        let with = |keys: &[usize], f: &dyn Fn(&usize) -> bool| {
            Vec::from_iter(keys.iter().copied().filter(f))
        };
        let hits = with(chosen, &|k| self.ready.contains(k));
        let placed = with(chosen, &|k| {
            self.resident.contains(k) && !self.ready.contains(k)
        });
        let absent = with(chosen, &|k| !self.resident.contains(k));
        self.hits += hits.len() as u64;
        self.missed.extend(placed.iter().chain(&absent));
        let mut queue = VecDeque::from([hits, placed].concat());
        self.kept.extend(&queue);
        let mut absent = absent.into_iter().peekable();
        loop {
            while let Some(key) = absent.next_if(|key| self.place(*key)) {
                queue.push_back(key);
            }
            if let Some(key) = queue.pop_front() {
                self.ready.insert(key);
                self.kept.remove(&key);
            } else if absent.peek().is_some() {
                for key in std::mem::take(&mut self.expected) {
                    self.drop_expected(key);
                }
            } else {
                return;
            }
        }
    }
}
