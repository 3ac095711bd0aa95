//! Traces of routing: which experts every token chose, for replays of cache policies. Writer and reader.
//!
//! ```text
//! magic "infallRT"   version u32   n_tokens u64
//! model hash u64   n_layer u32   n_expert u32   n_used u32   n_vocab u32   model name: length u32, UTF-8
//! n_tokens x   phase u8 (0 prefill, 1 decode)   n_layer x n_used ids: u8, or u16 where n_expert > 256
//! ```
//!
//! Numbers are little-endian; the ids of a layer stand in the router's order. Tokens stand in the order in which they
//! were computed, those that a conversation dropped later too. The count of tokens is written again after every pass,
//! so a file is whole whenever the program ends; a pass that failed or was stopped is not in it.

use crate::error::{Context, Error, Result};
use crate::os::ReadAt;
use crate::units::{ExpertId, LayerId, Phase};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::{Range, RangeInclusive};

const MAGIC: [u8; 8] = *b"infallRT";
const VERSION: u32 = 1;
/// Where the count of tokens stands.
const COUNT_AT: u64 = (MAGIC.len() + size_of::<u32>()) as u64;
/// Experts that a byte can name.
const BYTE_IDS: usize = 256;
/// Bytes of tensor data that [`model_hash`] looks at: models of one shape differ in their first weights.
const HASHED_DATA: u64 = 64 << 10;
/// Bytes hashed at a time.
const HASHED_AT_ONCE: u64 = 256 << 10;

/// Bounds of what a file may say; those of the model's numbers are the model's own.
struct Limits {
    name: usize,
    n_layer: RangeInclusive<usize>,
    n_expert: RangeInclusive<usize>,
    n_used: RangeInclusive<usize>,
    n_vocab: RangeInclusive<usize>,
}

const LIMITS: Limits = Limits {
    name: 4096,
    n_layer: 1..=512,
    n_expert: 1..=4096,
    n_used: 1..=64,
    n_vocab: 1..=1 << 22,
};

/// What a trace is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the model file is called, without its folder.
    pub model: String,
    /// [`model_hash`] of the model file.
    pub model_hash: u64,
    /// Layers.
    pub n_layer: usize,
    /// Experts of a layer.
    pub n_expert: usize,
    /// Experts that a token uses in a layer.
    pub n_used: usize,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
}

/// Bytes of an id.
fn id_len(n_expert: usize) -> usize {
    if n_expert <= BYTE_IDS { 1 } else { 2 }
}

/// Bytes of a token, its phase and its ids: in a file, and for each token of a pass in memory.
pub fn token_len(n_layer: usize, n_expert: usize, n_used: usize) -> usize {
    1 + n_layer * n_used * id_len(n_expert)
}

impl Header {
    fn id_len(&self) -> usize {
        id_len(self.n_expert)
    }

    fn token_len(&self) -> usize {
        token_len(self.n_layer, self.n_expert, self.n_used)
    }

    fn check(&self) -> Result<()> {
        check_name(self.model.len())?;
        for (what, found, expected) in [
            ("layers", self.n_layer, LIMITS.n_layer),
            ("experts", self.n_expert, LIMITS.n_expert),
            ("experts used", self.n_used, LIMITS.n_used),
            ("tokens of the vocabulary", self.n_vocab, LIMITS.n_vocab),
        ] {
            if !expected.contains(&found) {
                let (first, last) = expected.into_inner();
                return Err(Error::format(format!(
                    "{what}: found {found}, expected {first} to {last}"
                )));
            }
        }
        if self.n_used > self.n_expert {
            let (n_used, n_expert) = (self.n_used, self.n_expert);
            return Err(Error::format(format!(
                "experts used: found {n_used}, expected at most {n_expert}, all experts"
            )));
        }
        Ok(())
    }
}

fn check_name(len: usize) -> Result<()> {
    if len > LIMITS.name {
        return Err(Error::limit("length of the model name", len, LIMITS.name));
    }
    Ok(())
}

/// FNV-1a of 64 bits over a model file's length, its header and the first 64 KiB of its tensor data, or over those of all
/// files of a model that was split: tells models apart without reading all of them. With each file comes where its tensor
/// data begins.
///
/// Errors: a failed read.
pub fn model_hash<'a, F: ReadAt + 'a>(
    files: impl IntoIterator<Item = (&'a F, u64)>,
) -> Result<u64> {
    let mut hash = FNV_START;
    for (file, data_start) in files {
        hash = hash_file(hash, file, data_start)?;
    }
    Ok(hash)
}

fn hash_file(hash: u64, file: &impl ReadAt, data_start: u64) -> Result<u64> {
    let end = data_start.saturating_add(HASHED_DATA).min(file.len());
    let mut hash = fnv1a(hash, &file.len().to_le_bytes());
    let mut buf = vec![0; HASHED_AT_ONCE.min(end) as usize];
    let mut at = 0;
    while at < end {
        let n = HASHED_AT_ONCE.min(end - at) as usize;
        file.read_exact_at(at, &mut buf[..n])
            .context(|| file.name())?;
        hash = fnv1a(hash, &buf[..n]);
        at += n as u64;
    }
    Ok(hash)
}

/// Offset basis of FNV-1a, 64 bits. Source: draft-eastlake-fnv.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    bytes.iter().fold(hash, step)
}

/// Writes a trace, a pass at a time.
pub struct Recorder<W> {
    out: W,
    name: String,
    header: Header,
    n_tokens: u64,
    /// The tokens of the pass, as they will stand in the file.
    pass: Vec<u8>,
    /// Ids that the pass was told.
    n_ids: usize,
}

impl<W: Write + Seek> Recorder<W> {
    /// Begins a trace in `out`, called `name` in messages; a pass has up to `n_tokens` tokens.
    ///
    /// Errors: a failed write; an output that is no file, since the count stands at its start.
    pub fn new(out: W, name: &str, header: Header, n_tokens: usize) -> Result<Recorder<W>> {
        header.check()?;
        let pass = Vec::with_capacity(n_tokens * header.token_len());
        let mut recorder = Recorder {
            out,
            name: name.into(),
            header,
            n_tokens: 0,
            pass,
            n_ids: 0,
        };
        let bytes = recorder.header_bytes();
        recorder.write(|out| out.write_all(&bytes))?;
        recorder.write_count()?;
        Ok(recorder)
    }

    fn header_bytes(&self) -> Vec<u8> {
        let h = &self.header;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(h.model_hash.to_le_bytes());
        // `check` bounds them far below 32 bits.
        for n in [h.n_layer, h.n_expert, h.n_used, h.n_vocab, h.model.len()] {
            bytes.extend((n as u32).to_le_bytes());
        }
        bytes.extend(h.model.as_bytes());
        bytes
    }

    /// A pass over `n_tokens` tokens begins; what is left of one that did not end is dropped.
    pub fn begin(&mut self, phase: Phase, n_tokens: usize) {
        let len = self.header.token_len();
        self.pass.clear();
        self.pass.resize(n_tokens * len, 0);
        let phases = self.pass.iter_mut().step_by(len);
        phases.for_each(|byte| *byte = phase as u8);
        self.n_ids = 0;
    }

    /// In a layer the tokens `tokens` of the pass chose `ids`, `[n, n_used]`.
    pub fn chosen(&mut self, layer: LayerId, tokens: Range<usize>, ids: &[ExpertId]) {
        let h = &self.header;
        let (n_used, id_len, len) = (h.n_used, h.id_len(), h.token_len());
        assert_eq!(ids.len(), tokens.len() * n_used, "ids of {layer:?}");
        self.n_ids += ids.len();
        let at = 1 + layer.0 * n_used * id_len;
        for (token, ids) in tokens.zip(ids.chunks_exact(n_used)) {
            let place = &mut self.pass[token * len + at..][..n_used * id_len];
            for (place, id) in place.chunks_exact_mut(id_len).zip(ids) {
                place.copy_from_slice(&id.0.to_le_bytes()[..id_len]);
            }
        }
    }

    /// The pass is done: its tokens are written.
    ///
    /// Errors: a failed write, such as on a full disk. The count in the file is then that before the pass, and the
    /// reader complains of what stands behind.
    pub fn end(&mut self) -> Result<()> {
        let n_tokens = self.pass.len() / self.header.token_len();
        let expected = n_tokens * self.header.n_layer * self.header.n_used;
        assert_eq!(self.n_ids, expected, "each layer tells each token's ids");
        let pass = std::mem::take(&mut self.pass);
        let written = self.write(|out| out.write_all(&pass));
        self.pass = pass;
        written?;
        self.n_tokens += n_tokens as u64;
        self.write_count()
    }

    fn write_count(&mut self) -> Result<()> {
        let n_tokens = self.n_tokens;
        self.write(|out| {
            out.seek(SeekFrom::Start(COUNT_AT))?;
            out.write_all(&n_tokens.to_le_bytes())?;
            out.seek(SeekFrom::End(0)).map(drop)
        })
    }

    fn write(&mut self, how: impl FnOnce(&mut W) -> std::io::Result<()>) -> Result<()> {
        let written = how(&mut self.out).and_then(|()| self.out.flush());
        written.map_err(|e| Error::io(format_args!("route trace {}", self.name), &e))
    }
}

/// Reads a trace, a token at a time. Trusts nothing of it: each number is checked before use.
pub struct Reader<R> {
    input: R,
    name: String,
    header: Header,
    n_tokens: u64,
    n_read: u64,
    /// Bytes read.
    at: u64,
    token: Vec<u8>,
    ids: Vec<ExpertId>,
}

impl<R: Read> Reader<R> {
    /// Reads the header of the trace in `input`, called `name` in messages. Reads small pieces: a file wants a
    /// buffer around it.
    ///
    /// Errors: `Format` for what is no trace, `Unsupported` for another version, `Io` for a failed read.
    pub fn new(input: R, name: &str) -> Result<Reader<R>> {
        let nothing = Header {
            model: String::new(),
            model_hash: 0,
            n_layer: 0,
            n_expert: 0,
            n_used: 0,
            n_vocab: 0,
        };
        let mut reader = Reader {
            input,
            name: name.into(),
            header: nothing,
            n_tokens: 0,
            n_read: 0,
            at: 0,
            token: Vec::new(),
            ids: Vec::new(),
        };
        reader.read_header().context(|| name)?;
        Ok(reader)
    }

    fn read_header(&mut self) -> Result<()> {
        let magic: [u8; 8] = self.array("magic")?;
        if magic != MAGIC {
            let (found, expected) = (magic.escape_ascii(), MAGIC.escape_ascii());
            return Err(Error::format(format!(
                "not a route trace: found '{found}', expected '{expected}'"
            )));
        }
        let version = self.number("version")?;
        if version != VERSION as usize {
            return Err(Error::unsupported(format!(
                "version: found {version}, expected {VERSION}"
            )));
        }
        self.n_tokens = u64::from_le_bytes(self.array("count of tokens")?);
        let model_hash = u64::from_le_bytes(self.array("model hash")?);
        self.header = Header {
            model: String::new(),
            model_hash,
            n_layer: self.number("layers")?,
            n_expert: self.number("experts")?,
            n_used: self.number("experts used")?,
            n_vocab: self.number("tokens of the vocabulary")?,
        };
        self.header.check()?;
        let len = self.number("length of the model name")?;
        check_name(len)?;
        let mut name = vec![0; len];
        self.fill(&mut name, "model name")?;
        self.header.model = String::from_utf8(name).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Error::format(format!("model name: not UTF-8 text at byte {at}"))
        })?;
        self.token.resize(self.header.token_len(), 0);
        Ok(())
    }

    /// What the trace is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many tokens the file says to hold; only [`Reader::token`] shows whether it does.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// The next token: its phase, and its experts `[n_layer, n_used]`; `None` behind the last.
    ///
    /// Errors: a file that ends too early or too late, an unknown phase, an expert that the model lacks.
    pub fn token(&mut self) -> Result<Option<(Phase, &[ExpertId])>> {
        let (n, all) = (self.n_read, self.n_tokens);
        if n == all {
            let ended = self.expect_end();
            return ended.context(|| &self.name).map(|()| None);
        }
        let phase = self.read_token();
        let phase = phase.context(|| format!("{}: token {n} of {all}", self.name))?;
        self.n_read += 1;
        Ok(Some((phase, &self.ids)))
    }

    fn read_token(&mut self) -> Result<Phase> {
        let mut token = std::mem::take(&mut self.token);
        let filled = self.fill(&mut token, "phase and experts");
        self.token = token;
        filled?;
        let (&phase, ids) = self.token.split_first().unwrap_or((&u8::MAX, &[]));
        let Some(&phase) = Phase::ALL.get(phase as usize) else {
            return Err(Error::format(format!(
                "phase: found {phase}, expected 0 (prefill) or 1 (decode)"
            )));
        };
        let h = &self.header;
        self.ids.clear();
        for (i, bytes) in ids.chunks_exact(h.id_len()).enumerate() {
            let id = bytes
                .iter()
                .rev()
                .fold(0, |id, byte| id << 8 | u32::from(*byte));
            if id as usize >= h.n_expert {
                let (layer, n_expert) = (i / h.n_used, h.n_expert);
                return Err(Error::format(format!(
                    "layer {layer}: found expert {id}, expected below {n_expert}"
                )));
            }
            self.ids.push(ExpertId(id));
        }
        Ok(phase)
    }

    /// An error where bytes follow.
    fn expect_end(&mut self) -> Result<()> {
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(Error::format(format!(
                "found bytes at {}, expected the end behind {} tokens: did the run fail?",
                self.at, self.n_tokens
            ))),
        }
    }

    fn number(&mut self, what: &str) -> Result<usize> {
        Ok(u32::from_le_bytes(self.array(what)?) as usize)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn fill(&mut self, buf: &mut [u8], what: &str) -> Result<()> {
        let mut have = 0;
        while have < buf.len() {
            let n = self.read(&mut buf[have..])?;
            if n == 0 {
                return Err(Error::format(format!(
                    "{what} at byte {}: found {have} bytes, expected {}",
                    self.at,
                    buf.len()
                )));
            }
            have += n;
        }
        self.at += buf.len() as u64;
        Ok(())
    }

    /// Bytes read now, 0 at the end.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.read(buf) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(|e| Error::io("route trace", &e)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
