//! Numbers in a range, digit by digit: after each byte some number of the range can still be written.
//!
//! With `places` digits behind the point at most, a number is a whole number of units of 10^-places. What was written so far
//! leaves these magnitudes, in units:
//!
//! ```text
//! v           v * 10^k * unit to (v + 1) * 10^k * unit - 1, for k = 0, 1, ... further digits
//! v.          v * unit to (v + 1) * unit - 1
//! v.d..d      f digits: v.d..d * 10^(places - f) to what is one less than the next of f digits
//! ```

/// The largest magnitude in units; all sums stay far below what 128 bits hold.
pub const MAX_UNITS: i128 = 10i128.pow(18);

/// The range of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// The least, in units.
    low: i128,
    /// The largest.
    high: i128,
    /// A number of units of which it is a multiple.
    step: i128,
    /// Digits behind the point at most.
    places: u8,
}

/// What was written so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Start,
    Minus,
    Whole,
    Point,
    Fraction,
}

/// A place in a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Written {
    part: Part,
    negative: bool,
    /// Digits behind the point.
    n_places: u8,
    /// All digits as one number.
    digits: u64,
}

impl Written {
    /// Nothing.
    pub const START: Written = Written {
        part: Part::Start,
        negative: false,
        n_places: 0,
        digits: 0,
    };
}

impl Decimal {
    /// The multiples of `step` from `low` to `high`, all in units of 10^-`places`. What is beyond [`MAX_UNITS`] is cut.
    pub fn new(low: i128, high: i128, step: i128, places: u8) -> Decimal {
        Decimal {
            low: low.max(-MAX_UNITS),
            high: high.min(MAX_UNITS),
            step: step.max(1),
            places,
        }
    }

    /// Whether no number is in the range.
    pub fn is_empty(&self) -> bool {
        let written = |negative| Written {
            negative,
            ..Written::START
        };
        // What can be written without a sign, and with one.
        let some = |negative| self.some_in(written(negative), 0, MAX_UNITS);
        !some(false) && !some(true)
    }

    fn unit(&self) -> i128 {
        10i128.pow(u32::from(self.places))
    }

    /// Whether a number of the range has this sign and a magnitude from `low` to `high` units.
    fn some_in(&self, written: Written, low: i128, high: i128) -> bool {
        let (least, most) = match written.negative {
            false => (self.low.max(0), self.high),
            true => ((-self.high).max(1), -self.low), // no -0
        };
        let (low, high) = (low.max(least), high.min(most));
        low <= high && high.div_euclid(self.step) * self.step >= low
    }

    /// Whether a number of the range begins like this.
    fn may_go_on(&self, written: Written) -> bool {
        let v = i128::from(written.digits);
        match written.part {
            Part::Start => true,
            Part::Minus => self.some_in(written, 0, MAX_UNITS),
            Part::Whole => {
                let (mut low, mut high) = (v * self.unit(), (v + 1) * self.unit() - 1);
                loop {
                    if self.some_in(written, low, high) {
                        return true;
                    }
                    if v == 0 || low > MAX_UNITS {
                        return false;
                    }
                    (low, high) = (low * 10, high * 10 + 9);
                }
            }
            Part::Point => self.some_in(written, v * self.unit(), (v + 1) * self.unit() - 1),
            Part::Fraction => {
                let rest = 10i128.pow(u32::from(self.places - written.n_places));
                self.some_in(written, v * rest, (v + 1) * rest - 1)
            }
        }
    }

    /// Whether what was written is a number of the range.
    pub fn is_whole(&self, written: Written) -> bool {
        let v = i128::from(written.digits);
        let units = match written.part {
            Part::Whole => v * self.unit(),
            Part::Fraction => v * 10i128.pow(u32::from(self.places - written.n_places)),
            _ => return false,
        };
        self.some_in(written, units, units)
    }

    /// What is written with one more byte, if a number of the range begins so.
    pub fn next(&self, written: Written, byte: u8) -> Option<Written> {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
        let with = |part, digit: u64| {
            let digits = written.digits.checked_mul(10)?.checked_add(digit)?;
            Some(Written {
                part,
                digits,
                ..written
            })
        };
        let next = match (written.part, byte, digit) {
            (Part::Start, b'-', _) => Written {
                part: Part::Minus,
                negative: true,
                ..written
            },
            (Part::Start | Part::Minus, _, Some(digit)) => with(Part::Whole, digit)?,
            (Part::Whole, _, Some(digit)) if written.digits > 0 => with(Part::Whole, digit)?,
            (Part::Whole, b'.', _) if self.places > 0 => Written {
                part: Part::Point,
                ..written
            },
            (Part::Point | Part::Fraction, _, Some(digit)) if written.n_places < self.places => {
                Written {
                    n_places: written.n_places + 1,
                    ..with(Part::Fraction, digit)?
                }
            }
            _ => return None,
        };
        self.may_go_on(next).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Everything that can be written, by trying all bytes.
    fn written(decimal: &Decimal, most: usize) -> Vec<String> {
        let (mut all, mut open) = (Vec::new(), vec![(String::new(), Written::START)]);
        while let Some((text, state)) = open.pop() {
            let before = all.len() + open.len();
            if decimal.is_whole(state) {
                all.push(text.clone());
            }
            for byte in *b"-.0123456789eE+ " {
                if let Some(next) = decimal.next(state, byte) {
                    open.push((format!("{text}{}", char::from(byte)), next));
                }
            }
            assert!(all.len() + open.len() > before, "dead end behind {text:?}");
            assert!(text.len() <= most);
        }
        all.sort();
        all
    }

    /// All texts of a sign, some digits and some places, tried one by one.
    #[test]
    fn numbers_are_those_that_a_search_finds() {
        for seed in 1..400 {
            let mut rng = Rng::new(seed);
            let places = rng.below(3) as u8;
            let unit = 10i128.pow(u32::from(places));
            let low = rng.below(400) as i128 - 200;
            let high = low + rng.below(300) as i128;
            let step = [1, 1, 2, 5, 7, 30][rng.below(6)];
            let decimal = Decimal::new(low, high, step, places);
            let mut expected = Vec::new();
            for whole in 0..=600 / unit {
                for n in 0..=u32::from(places) {
                    for fraction in 0..10i128.pow(n) {
                        for negative in [false, true] {
                            let units = whole * unit + fraction * 10i128.pow(u32::from(places) - n);
                            let value = if negative { -units } else { units };
                            let fits = (low..=high).contains(&value) && value % step == 0;
                            if !fits || negative && units == 0 {
                                continue;
                            }
                            let sign = if negative { "-" } else { "" };
                            expected.push(match n {
                                0 => format!("{sign}{whole}"),
                                n => format!("{sign}{whole}.{fraction:0w$}", w = n as usize),
                            });
                        }
                    }
                }
            }
            expected.sort();
            assert_eq!(decimal.is_empty(), expected.is_empty(), "{decimal:?}");
            if !decimal.is_empty() {
                assert_eq!(written(&decimal, 6), expected, "{decimal:?}");
            }
        }
    }

    #[test]
    fn ends_of_64_bits_are_reached() {
        let decimal = Decimal::new(10i128.pow(18) - 1, i128::MAX, 1, 0);
        assert_eq!(
            written(&decimal, 19),
            ["1000000000000000000", "999999999999999999"]
        );
        assert!(Decimal::new(5, 4, 1, 0).is_empty() && Decimal::new(11, 19, 10, 0).is_empty());
    }
}
