//! The seeded generator used everywhere: xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift
//! generators, scrambled", 2014). Small and repeatable; not for secrets.

/// Stands in for the state 0, which the generator cannot leave: 2^64 divided by the golden ratio.
const STATE_FOR_ZERO: u64 = 0x9E37_79B9_7F4A_7C15;

/// The scrambling factor of xorshift64*.
const MULTIPLIER: u64 = 0x2545_F491_4F6C_DD1D;

/// A generator; the same seed gives the same numbers on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng {
            state: if seed == 0 { STATE_FOR_ZERO } else { seed },
        }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(MULTIPLIER)
    }

    /// A number of [0, 1): the top 24 bits, all that an f32 holds.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 24) as f32
    }

    /// A whole number below `n`. `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "no number is below 0");
        // The high half of a 128-bit product: the bias is n / 2^64.
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's integers from the formula of the paper.
    #[test]
    fn first_numbers_of_two_seeds() {
        let take = |seed| {
            let mut rng = Rng::new(seed);
            [rng.next_u64(), rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(
            take(1),
            [
                0x47E4_CE4B_896C_DD1D,
                0xABCF_A6A8_E079_651D,
                0xB9D1_0D8F_EB73_1F57
            ]
        );
        assert_eq!(
            take(0),
            [
                0x0D83_B3E2_9A21_487A,
                0x54C4_4C79_F1FE_9D67,
                0xA845_F342_007A_0E78
            ]
        );
    }

    #[test]
    fn uniform_takes_the_top_24_bits() {
        let (mut bits, mut numbers) = (Rng::new(7), Rng::new(7));
        for _ in 0..1000 {
            let expected = (bits.next_u64() >> 40) as f64 / 16_777_216.0;
            let found = numbers.uniform();
            assert_eq!(f64::from(found), expected);
            assert!((0.0..1.0).contains(&found));
        }
    }

    #[test]
    fn below_reaches_every_number_about_equally_often() {
        let mut rng = Rng::new(3);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[rng.below(10)] += 1;
        }
        // 5 standard deviations (30) around 1000.
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
    }
}
