//! Which resident expert is given up: no I/O, no memory, only counts.

/// How use turns into worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Counts of all selections, halved every 16 tokens: the published engines' rule.
    Halving,
    /// Counts that fade by half in 24 tokens, smoothly.
    HalfLife,
    /// The time of the last use alone.
    Lru,
}

/// Tokens between two halvings.
const HALVING_PERIOD: u64 = 16;

/// Tokens in which a count fades by half.
const HALF_LIFE: f64 = 24.0;

/// Weights grow instead of all counts fading; before they could overflow everything is scaled down.
const LARGEST_WEIGHT: f64 = 1e200;

/// The worth of every expert, resident or not, by key.
pub struct Worth {
    policy: Policy,
    count: Vec<f64>,
    last_use: Vec<u64>,
    /// What one selection counts now.
    weight: f64,
    n_tokens: u64,
    clock: u64,
}

impl Worth {
    /// Nothing was used yet of `n_keys` experts.
    pub fn new(policy: Policy, n_keys: usize) -> Worth {
        Worth {
            policy,
            count: vec![0.0; n_keys],
            last_use: vec![0; n_keys],
            weight: 1.0,
            n_tokens: 0,
            clock: 0,
        }
    }

    /// An expert was selected by `n` tokens, whether it is resident or not.
    pub fn touch(&mut self, key: usize, n: usize) {
        self.clock += 1;
        self.count[key] += self.weight * n as f64;
        self.last_use[key] = self.clock;
    }

    /// A decoded token begins.
    pub fn token(&mut self) {
        self.n_tokens += 1;
        match self.policy {
            Policy::Halving if self.n_tokens.is_multiple_of(HALVING_PERIOD) => {
                // Whole counts, as the rule has it: 1 becomes 0.
                self.count.iter_mut().for_each(|c| *c = (*c / 2.0).floor());
            }
            Policy::HalfLife => {
                self.weight *= (std::f64::consts::LN_2 / HALF_LIFE).exp();
                if self.weight > LARGEST_WEIGHT {
                    self.count.iter_mut().for_each(|c| *c /= LARGEST_WEIGHT);
                    self.weight /= LARGEST_WEIGHT;
                }
            }
            Policy::Halving | Policy::Lru => {}
        }
    }

    /// The key of least worth, the longest unused among equals.
    pub fn least(&self, keys: impl Iterator<Item = usize>) -> Option<usize> {
        let worth = |key: usize| match self.policy {
            Policy::Lru => (0.0, self.last_use[key]),
            Policy::Halving | Policy::HalfLife => (self.count[key], self.last_use[key]),
        };
        keys.min_by(|a, b| {
            let ((a, at), (b, bt)) = (worth(*a), worth(*b));
            a.total_cmp(&b).then(at.cmp(&bt))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_halved_every_sixteen_tokens() {
        let mut worth = Worth::new(Policy::Halving, 3);
        worth.touch(0, 5);
        worth.touch(1, 3);
        for _ in 0..15 {
            worth.token();
        }
        assert_eq!(worth.count, [5.0, 3.0, 0.0]);
        worth.token();
        assert_eq!(worth.count, [2.0, 1.0, 0.0]);
        // 1 becomes 0: then the longer unused goes first.
        worth.touch(2, 1);
        for _ in 0..16 {
            worth.token();
        }
        assert_eq!(worth.least([0, 1, 2].into_iter()), Some(1));
    }

    #[test]
    fn a_use_is_worth_half_after_its_half_life() {
        let mut worth = Worth::new(Policy::HalfLife, 2);
        worth.touch(0, 2);
        for _ in 0..24 {
            worth.token();
        }
        worth.touch(1, 1);
        assert!((worth.count[0] / worth.count[1] - 1.0).abs() < 1e-9);
        // Far beyond where the weights would overflow.
        for _ in 0..100_000 {
            worth.token();
        }
        worth.touch(0, 1);
        assert_eq!(worth.least([0, 1].into_iter()), Some(1));
        assert!(worth.weight.is_finite() && worth.count[0].is_finite());
    }

    #[test]
    fn lru_gives_up_the_longest_unused_against_a_list() {
        let mut worth = Worth::new(Policy::Lru, 5);
        let mut list: Vec<usize> = Vec::new();
        for key in [0, 1, 2, 3, 4, 1, 1, 0, 3, 2, 0] {
            worth.touch(key, 1 + key);
            list.retain(|k| *k != key);
            list.push(key);
            assert_eq!(worth.least(list.iter().copied()), Some(list[0]));
        }
        assert_eq!(worth.least([].into_iter()), None);
    }
}
