//! Rotary position embedding: frequencies of the two kinds of layers, and their angles for one chunk.
//!
//! Angles are computed in f64: at position 10^6 an f32 product would be off by up to 0.06 rad.

use crate::backend::{Backend, Storage};
use crate::error::Result;
use crate::model::config::{Config, LayerKind, Yarn};
use std::f64::consts::PI;

/// Cosines and sines `(cos, sin)...` of one chunk, `[rows, n_rot]` each.
pub struct Rope<B: Storage> {
    plain: Frequencies,
    compressed: Frequencies,
    /// One row for each token, in sliding layers.
    pub tokens: B::Buffer,
    /// One row for each token, in compressed layers.
    pub tokens_compressed: B::Buffer,
    /// One row for each window of 4 closed in the chunk, at its first token.
    pub windows_4: B::Buffer,
    /// The same for windows of 128.
    pub windows_128: B::Buffer,
    host: Vec<f32>,
    /// Position and length of the chunk whose angles are there.
    filled: (usize, usize),
}

impl<B: Storage> Rope<B> {
    /// Tables for chunks of up to `chunk` tokens.
    pub fn new(config: &Config, backend: &mut B, chunk: usize) -> Result<Rope<B>> {
        let n_rot = config.n_rot;
        let mut table = |rows: usize| backend.buffer(rows * n_rot);
        Ok(Rope {
            plain: Frequencies::new(n_rot, config.rope_base.into(), None),
            compressed: Frequencies::new(
                n_rot,
                config.rope_base_compressed.into(),
                Some(config.yarn),
            ),
            tokens: table(chunk)?,
            tokens_compressed: table(chunk)?,
            windows_4: table(chunk / 4 + 1)?,
            windows_128: table(chunk / 128 + 1)?,
            host: Vec::with_capacity(chunk * n_rot),
            filled: (0, 0),
        })
    }

    /// Takes no angles to be there: a backend that failed may not have written them.
    pub fn forget(&mut self) {
        self.filled = (0, 0);
    }

    /// Angles of the chunk of `n` tokens from position `pos`.
    pub fn fill(&mut self, backend: &mut B, pos: usize, n: usize) -> Result<()>
    where
        B: Backend,
    {
        if self.filled == (pos, n) {
            return Ok(());
        }
        self.filled = (pos, n);
        let tokens = || pos..pos + n;
        let windows = |ratio: usize| (pos / ratio..(pos + n) / ratio).map(move |w| ratio * w);
        let host = &mut self.host;
        backend.write(&mut self.tokens, self.plain.angles(tokens(), host))?;
        backend.write(
            &mut self.tokens_compressed,
            self.compressed.angles(tokens(), host),
        )?;
        backend.write(
            &mut self.windows_4,
            self.compressed.angles(windows(4), host),
        )?;
        backend.write(
            &mut self.windows_128,
            self.compressed.angles(windows(128), host),
        )
    }

    /// The tokens' table for a kind of layer.
    pub fn of_tokens(&self, kind: LayerKind) -> &B::Buffer {
        if kind == LayerKind::Sliding {
            &self.tokens
        } else {
            &self.tokens_compressed
        }
    }

    /// The closed windows' table for a ratio.
    pub fn of_windows(&self, ratio: usize) -> &B::Buffer {
        if ratio == 4 {
            &self.windows_4
        } else {
            &self.windows_128
        }
    }
}

/// Radians a position turns each pair by.
struct Frequencies(Vec<f64>);

impl Frequencies {
    /// `base^(-2i / n_rot)`; with YaRN, slow pairs are divided by its factor and those between are blended.
    fn new(n_rot: usize, base: f64, yarn: Option<Yarn>) -> Frequencies {
        let plain = |i: usize| base.powf(-2.0 * i as f64 / n_rot as f64);
        let Some(yarn) = yarn else {
            return Frequencies((0..n_rot / 2).map(plain).collect());
        };
        // The pair that turns `beta` times over the original context.
        let pair = |beta: f32| {
            n_rot as f64 * (yarn.original_ctx as f64 / (2.0 * PI * f64::from(beta))).ln()
                / (2.0 * base.ln())
        };
        let low = pair(yarn.beta_fast).floor().max(0.0);
        let high = pair(yarn.beta_slow).ceil().min(n_rot as f64 - 1.0);
        let blend = |i: usize| {
            let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            plain(i) * (1.0 - ramp) + plain(i) / f64::from(yarn.factor) * ramp
        };
        Frequencies((0..n_rot / 2).map(blend).collect())
    }

    fn angles<'a>(
        &self,
        positions: impl Iterator<Item = usize>,
        out: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        out.clear();
        for p in positions {
            for f in &self.0 {
                let (sin, cos) = (p as f64 * f).sin_cos();
                out.extend([cos as f32, sin as f32]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::gguf::Gguf;
    use crate::model::Model;
    use crate::options::KernelChoice;
    use crate::os::File;

    /// Values of the fact sheet for Flash: 64 rotary values, YaRN 16 over 65,536 tokens.
    #[test]
    fn frequencies_match_the_published_table() {
        let yarn = Yarn {
            factor: 16.0,
            original_ctx: 65_536,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let plain = Frequencies::new(64, 10_000.0, None).0;
        let compressed = Frequencies::new(64, 160_000.0, Some(yarn)).0;
        let table = [
            (0, 1.0, 1.0),
            (1, 0.749894209, 0.687656022),
            (8, 0.1, 0.05),
            (15, 0.0133352143, 0.00363553858),
            (16, 0.01, 0.002265625),
            (20, 0.00316227766, 2.96977778e-4),
            (24, 0.001, 1.953125e-5),
            (25, 7.49894209e-4, 5.37231267e-6),
            (31, 1.33352143e-4, 5.68052904e-7),
        ];
        for (i, a, b) in table {
            assert!(
                (plain[i] / a - 1.0f64).abs() < 1e-8,
                "plain {i}: {}",
                plain[i]
            );
            assert!(
                (compressed[i] / b - 1.0f64).abs() < 1e-8,
                "YaRN {i}: {}",
                compressed[i]
            );
        }
    }

    /// At position 1 the angle is the frequency: by the fact sheet's table, pair 1 turns by 0.749894 in sliding
    /// layers and by 0.687656 in both compressed kinds, and pair 24 by 1e-3 and 1.953125e-5.
    #[test]
    fn each_kind_of_layer_has_its_table_and_windows_turn_by_their_first_token() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/micro-q2.gguf");
        let file = File::open(path.as_ref()).unwrap();
        let mut config = Model::bind(Gguf::read(&file).unwrap()).unwrap().config;
        config.n_rot = 64;
        (config.rope_base, config.rope_base_compressed) = (10_000.0, 160_000.0);
        config.yarn = Yarn {
            factor: 16.0,
            original_ctx: 65_536,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let mut cpu = Cpu::new(KernelChoice::Scalar, 1).unwrap();
        let mut rope = Rope::new(&config, &mut cpu, 300).unwrap();
        rope.fill(&mut cpu, 0, 300).unwrap();
        let assert_turns = |what: &str, row: &[f32], position: f64, frequencies: [f64; 2]| {
            for (pair, f) in [1, 24].into_iter().zip(frequencies) {
                let (sin, cos) = (position * f).sin_cos();
                let near = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-6;
                assert!(
                    near(row[2 * pair], cos) && near(row[2 * pair + 1], sin),
                    "{what}: pair {pair} is {:?}, expected {cos} {sin}",
                    &row[2 * pair..][..2]
                );
            }
        };
        let (plain, yarn) = ([0.749_894_209, 1e-3], [0.687_656_022, 1.953_125e-5]);
        for (kind, frequencies) in [
            (LayerKind::Sliding, plain),
            (LayerKind::Csa, yarn),
            (LayerKind::Hca, yarn),
        ] {
            let table = rope.of_tokens(kind);
            for p in [1, 17] {
                assert_turns(
                    &format!("{kind:?}"),
                    &table[64 * p..],
                    p as f64,
                    frequencies,
                );
            }
        }
        for pos in [0, 130] {
            rope.fill(&mut cpu, pos, 170).unwrap();
            for ratio in [4, 128] {
                let first = pos / ratio;
                for w in first..(pos + 170) / ratio {
                    let row = &rope.of_windows(ratio)[64 * (w - first)..];
                    let position = (ratio * w) as f64;
                    assert_turns(&format!("ratio {ratio}, row {w}"), row, position, yarn);
                }
            }
        }
    }

    #[test]
    fn angles_keep_their_phase_and_magnitude_at_a_million() {
        let mut out = Vec::new();
        let angles = Frequencies::new(4, 10_000.0, None).angles([1_000_003].into_iter(), &mut out);
        // cos and sin of 1000003 and of 10000.03 by another libm (Python).
        for (found, expected) in
            angles
                .iter()
                .zip([-0.877_986_49, 0.478_685_41, -0.942_559_87, -0.334_037_25])
        {
            assert!((found - expected as f32).abs() < 1e-6, "{angles:?}");
        }
        assert!(
            angles
                .chunks(2)
                .all(|a| (a[0] * a[0] + a[1] * a[1] - 1.0).abs() < 1e-6)
        );
    }
}
