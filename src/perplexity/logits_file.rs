//! The file that llama.cpp's `--kl-divergence-base` names: the tokens of all windows, and of each row that counts the
//! logarithms of all probabilities in 16 bits. Written and read here, so files can be exchanged.
//!
//! ```text
//! "_logits_"  u32 ctx  u32 n_vocab  u32 n_windows  i32 tokens[n_windows][ctx]
//! then for each window and each row that counts: f32 scale, f32 least, u16 codes[n_vocab], one more if n_vocab is odd
//! log p = least + scale * code; what is more than 16 below the largest counts as `least`
//! ```
//!
//! All little-endian. Source: llama.cpp, `tools/perplexity`.

use super::score::Softmax;
use crate::error::{Context, Error, Result};
use crate::units::TokenId;
use std::io::{BufReader, Read, Write};
use std::path::Path;

const MAGIC: [u8; 8] = *b"_logits_";

/// Bounds of what a file may say; what it says must also be there.
struct Limits {
    n_vocab: usize,
}

const LIMITS: Limits = Limits { n_vocab: 1 << 22 };

/// Logarithms that are more than this below the largest are not told apart.
const DEPTH: f32 = 16.0;

/// The largest code.
const MAX_CODE: f32 = 65535.0;

/// Bytes before the tokens.
const HEADER_BYTES: u64 = 20;

/// What a file is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tokens of a window.
    pub ctx: usize,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
    /// Of all windows.
    pub tokens: Vec<TokenId>,
}

impl Header {
    fn n_windows(&self) -> usize {
        self.tokens.len() / self.ctx
    }

    /// Rows that count.
    pub fn n_rows(&self) -> usize {
        self.n_windows() * (self.ctx - 1 - self.ctx / 2)
    }

    /// Writes what comes before the rows.
    ///
    /// Errors: a failed write.
    pub fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&MAGIC)?;
        for n in [self.ctx, self.n_vocab, self.n_windows()] {
            out.write_all(&(n as u32).to_le_bytes())?; // each is bounded far below
        }
        let mut tokens = self.tokens.iter();
        tokens.try_for_each(|token| out.write_all(&token.0.to_le_bytes()))
    }
}

/// Bytes of a row.
fn row_bytes(n_vocab: usize) -> usize {
    8 + 2 * n_vocab.next_multiple_of(2)
}

/// The bytes of one row.
pub fn encode(logits: &[f32], softmax: &Softmax) -> Vec<u8> {
    let max = softmax.max;
    let smallest = logits.iter().copied().fold(max, f32::min);
    let min = smallest.max(max - DEPTH);
    let scale = (max - min) / MAX_CODE;
    let least = softmax.log_p(min) as f32;
    let mut bytes = Vec::with_capacity(row_bytes(logits.len()));
    bytes.extend(scale.to_le_bytes());
    bytes.extend(least.to_le_bytes());
    for logit in logits {
        // With one value for all the scale is 0 and the quotient no number, which becomes code 0.
        let code = ((logit - min) / scale)
            .round_ties_even()
            .clamp(0.0, MAX_CODE) as u16;
        bytes.extend(code.to_le_bytes());
    }
    bytes.resize(row_bytes(logits.len()), 0);
    bytes
}

/// A file that is read row by row.
pub struct Reader {
    name: String,
    file: BufReader<std::fs::File>,
    header: Header,
    /// The last row, as it is in the file and as logarithms of probabilities.
    bytes: Vec<u8>,
    row: Vec<f32>,
}

impl Reader {
    /// Opens the file at `path` and checks that it is as long as it says.
    ///
    /// Errors: `Io` when the system refuses, `Format` for another file, `Limit` for absurd numbers; each names the file.
    pub fn open(path: &Path) -> Result<Reader> {
        let name = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|e| Error::io(&name, &e))?;
        let len = file.metadata().map_err(|e| Error::io(&name, &e))?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let header = read_header(&mut file, len).context(|| &name)?;
        let n_vocab = header.n_vocab;
        Ok(Reader {
            name,
            file,
            header,
            bytes: vec![0; row_bytes(n_vocab)],
            row: vec![0.0; n_vocab],
        })
    }

    /// What the file is about.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The logarithms of the probabilities of the next row, `[n_vocab]`.
    ///
    /// Errors: `Io` when the read fails, `Format` when the numbers of a row are none.
    pub fn next_row(&mut self) -> Result<&[f32]> {
        self.file
            .read_exact(&mut self.bytes)
            .map_err(|e| Error::io(&self.name, &e))?;
        let (numbers, codes) = self.bytes.split_at(8);
        let [scale, least] = [0, 4].map(|at| {
            let b = &numbers[at..at + 4];
            f32::from_le_bytes([b[0], b[1], b[2], b[3]])
        });
        if !(0.0..=DEPTH).contains(&scale) || !least.is_finite() {
            let found = format!("{}: a row with scale {scale} and least {least}", self.name);
            return Err(Error::format(found));
        }
        for (value, code) in self.row.iter_mut().zip(codes.as_chunks().0) {
            *value = least + scale * f32::from(u16::from_le_bytes(*code));
        }
        Ok(&self.row)
    }
}

fn read_header(file: &mut dyn Read, len: u64) -> Result<Header> {
    let short = |e: &std::io::Error| Error::io("a file of logits", e);
    if len < HEADER_BYTES {
        return Err(Error::format(format!(
            "found {len} bytes, expected at least {HEADER_BYTES} of a file of logits"
        )));
    }
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(|e| short(&e))?;
    if magic != MAGIC {
        let (found, expected) = (magic.escape_ascii(), MAGIC.escape_ascii());
        return Err(Error::format(format!(
            "no file of logits: starts with \"{found}\", expected \"{expected}\""
        )));
    }
    let mut number = || -> Result<usize> {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes).map_err(|e| short(&e))?;
        Ok(u32::from_le_bytes(bytes) as usize)
    };
    let (ctx, n_vocab, n_windows) = (number()?, number()?, number()?);
    if !super::WINDOW.contains(&ctx) {
        let (least, most) = (super::WINDOW.start(), super::WINDOW.end());
        return Err(Error::format(format!(
            "tokens of a window: found {ctx}, expected {least} to {most}"
        )));
    }
    if n_vocab == 0 || n_vocab > LIMITS.n_vocab {
        return Err(Error::limit(
            "tokens of the vocabulary",
            n_vocab,
            LIMITS.n_vocab,
        ));
    }
    // Below 2^32 windows of 2^21 rows of 2^24 bytes: 128 bits are enough.
    let of_window = 4 * ctx + (ctx - 1 - ctx / 2) * row_bytes(n_vocab);
    let expected = u128::from(HEADER_BYTES) + n_windows as u128 * of_window as u128;
    if n_windows == 0 || expected != u128::from(len) {
        return Err(Error::format(format!(
            "found {len} bytes, expected {expected} for {n_windows} windows of {ctx} tokens with {n_vocab} probabilities a \
             row"
        )));
    }
    let mut bytes = vec![0; 4 * ctx * n_windows]; // less than the file has
    file.read_exact(&mut bytes).map_err(|e| short(&e))?;
    let ids = bytes.as_chunks().0.iter();
    let tokens: Vec<TokenId> = ids.map(|id| TokenId(u32::from_le_bytes(*id))).collect();
    if let Some(token) = tokens.iter().find(|t| t.0 as usize >= n_vocab) {
        return Err(Error::limit("token id", token.0, n_vocab - 1));
    }
    Ok(Header {
        ctx,
        n_vocab,
        tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(n_vocab: usize) -> Header {
        Header {
            ctx: 4,
            n_vocab,
            tokens: [0, 1, 2, 3, 3, 2, 1, 0].map(TokenId).to_vec(),
        }
    }

    fn file(n_vocab: usize, rows: &[Vec<f32>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        header(n_vocab).write(&mut bytes).unwrap();
        for row in rows {
            bytes.extend(encode(row, &Softmax::new(row).unwrap()));
        }
        bytes
    }

    struct Temporary(std::path::PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    fn open(name: &str, bytes: &[u8]) -> (Result<Reader>, Temporary) {
        let name = format!("infall-logits-{}-{name}", std::process::id());
        let temporary = Temporary(std::env::temp_dir().join(name));
        std::fs::write(&temporary.0, bytes).unwrap();
        (Reader::open(&temporary.0), temporary)
    }

    #[test]
    fn what_is_written_is_read_within_half_a_step() {
        for n_vocab in [4, 5] {
            let mut rng = crate::rng::Rng::new(5);
            let random = (0..n_vocab).map(|_| 40.0 * rng.uniform()).collect();
            let rows = [random, vec![3.0; n_vocab]];
            let bytes = file(n_vocab, &rows);
            let (reader, _kept) = open("twice", &bytes);
            let mut reader = reader.unwrap();
            assert_eq!(reader.header(), &header(n_vocab));
            assert_eq!(reader.header().n_rows(), 2);
            for row in &rows {
                let softmax = Softmax::new(row).unwrap();
                let read = reader.next_row().unwrap();
                for (logit, found) in row.iter().zip(read) {
                    let expected = softmax.log_p(logit.max(softmax.max - DEPTH));
                    let step = f64::from(DEPTH / MAX_CODE);
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off <= 0.51 * step, "{logit}: {found}, {expected}");
                }
            }
            assert!(reader.next_row().is_err(), "there are no more");
        }
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let rows = vec![vec![1.0, 2.0, 3.0, 4.0]; 2];
        let good = file(4, &rows);
        let mut cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("empty", vec![], "found 0 bytes"),
            ("text", b"this is no file of logits".to_vec(), "starts with"),
            (
                "cut",
                good[..good.len() - 1].to_vec(),
                "expected 84 for 2 windows",
            ),
            ("long", [&good[..], &[0]].concat(), "found 85 bytes"),
        ];
        let number = |at: usize, n: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&n.to_le_bytes());
            bytes
        };
        cases.push(("ctx", number(8, u32::MAX), "tokens of a window"));
        cases.push(("short", number(8, 3), "tokens of a window"));
        cases.push(("vocab", number(12, u32::MAX), "tokens of the vocabulary"));
        cases.push(("windows", number(16, u32::MAX), "for 4294967295 windows"));
        cases.push(("none", number(16, 0), "for 0 windows"));
        cases.push(("token", number(20, 4), "token id 4"));
        for (name, bytes, expected) in cases {
            let (reader, kept) = open(name, &bytes);
            let error = reader.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(error.contains(kept.0.to_str().unwrap()), "{error}");
        }
        let (reader, _kept) = open("scale", &number(52, f32::NAN.to_bits()));
        assert!(reader.unwrap().next_row().is_err());
    }
}
