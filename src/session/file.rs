//! The file of a session: a header that says what it is, and a body in blocks, each with a checksum.
//!
//! ```text
//! block 0, 16 KiB: magic, version, Header; zeros ................................ | checksum
//! block 1 and on, 1 MiB: body (tokens u32, rows and states, logits f32, points) . | checksum
//! the last, a multiple of 16 KiB: the end of the body; zeros .................... | checksum
//! ```
//!
//! A checksum begins with that of the block before: it covers every byte of its own and the place of the block. All numbers
//! are little-endian. Blocks are whole pages, so that nothing of them stays in the page cache. A file of version 1 has no
//! points.

use crate::error::{Context, Error, Result};
use crate::options::KvFormat;
use crate::os::{AlignedBuf, NewFile, ReadAt};
use crate::units::TokenId;

/// First bytes of the file.
const MAGIC: [u8; 8] = *b"infallKV";

/// Changes when what follows the magic does.
const VERSION: u32 = 2;

/// Points of a file at most.
const POINTS: usize = 8;

/// Bytes of the header's block, and what lengths of others are multiples of.
const PAGE: usize = NewFile::ALIGNMENT;

/// Bytes of a block of the body. This much is in memory.
const BLOCK: usize = 1 << 20;

/// Bytes of a checksum, at the end of a block.
const SUM: usize = 8;

/// Longest name of an arithmetic, in bytes.
const NAME: usize = 64;

/// What a session was computed with: only what is computed alike can go on with it, bit by bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// See [`crate::routes::model_hash`].
    pub model_hash: u64,
    /// Layers of the model.
    pub n_layer: u32,
    /// Its tokens.
    pub n_vocab: u32,
    /// Form of the rows.
    pub kv: KvFormat,
    /// See [`crate::backend::Backend::arithmetic`].
    pub arithmetic: String,
}

impl Origin {
    /// An error that says what is different when this session was not computed with `expected`.
    pub fn check(&self, expected: &Origin) -> Result<()> {
        let texts = |o: &Origin| {
            [
                ("model", format!("{:016x}", o.model_hash)),
                ("layers:", o.n_layer.to_string()),
                ("vocabulary of", format!("{} tokens", o.n_vocab)),
                ("KV form", o.kv.name().to_string()),
                ("arithmetic", o.arithmetic.clone()),
            ]
        };
        for ((what, found), (_, expected)) in texts(self).into_iter().zip(texts(expected)) {
            if found != expected {
                let what = format!("computed with {what} {found}, expected {expected}");
                return Err(Error::unsupported(what));
            }
        }
        Ok(())
    }
}

/// A number of tokens at which a saved session can be taken up too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedPoint {
    /// Tokens up to it.
    pub n_tokens: u64,
    /// Their [`TokensHash`].
    pub tokens_hash: u64,
    /// Whether other conversations may come back to it.
    pub is_shared: bool,
}

/// What a session file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it was computed with.
    pub origin: Origin,
    /// Tokens held.
    pub n_tokens: u64,
    /// See [`TokensHash`].
    pub tokens_hash: u64,
    /// Whether the logits after the last token are there.
    pub has_logits: bool,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// In ascending order.
    pub points: Vec<SavedPoint>,
}

impl Header {
    /// Bytes of the file; `None` when there can be no such file.
    pub fn file_bytes(&self) -> Option<u64> {
        let room = (BLOCK - SUM) as u64;
        let rest = match self.body_bytes % room {
            0 => 0,
            rest => (rest + SUM as u64).next_multiple_of(PAGE as u64),
        };
        let whole = (self.body_bytes / room).checked_mul(BLOCK as u64)?;
        whole.checked_add(rest)?.checked_add(PAGE as u64)
    }

    /// A hash of what the session holds and was computed with.
    pub fn hash(&self) -> u64 {
        [self.tokens_hash, self.n_tokens]
            .into_iter()
            .fold(self.origin.hash(), mix)
    }

    fn put(&self, page: &mut [u8]) -> Result<()> {
        let o = &self.origin;
        let (kv, arithmetic) = (padded(o.kv.name())?, padded(&o.arithmetic)?);
        let fields: [&[u8]; 11] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &o.n_layer.to_le_bytes(),
            &o.n_vocab.to_le_bytes(),
            &u32::from(self.has_logits).to_le_bytes(),
            &o.model_hash.to_le_bytes(),
            &self.n_tokens.to_le_bytes(),
            &self.tokens_hash.to_le_bytes(),
            &self.body_bytes.to_le_bytes(),
            &kv,
            &arithmetic,
        ];
        let mut at = 0;
        for field in fields {
            page[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        if self.points.len() > POINTS {
            return Err(Error::limit(
                "points of a session",
                self.points.len(),
                POINTS,
            ));
        }
        let points = self.points.iter();
        let points = points.flat_map(|p| [p.n_tokens, p.tokens_hash, p.is_shared.into()]);
        for number in [self.points.len() as u64].into_iter().chain(points) {
            page[at..at + 8].copy_from_slice(&number.to_le_bytes());
            at += 8;
        }
        Ok(())
    }

    /// Understands a header's page, whose checksum was not looked at yet.
    fn get(page: &mut [u8]) -> Result<(Header, u64)> {
        let mut fields = Fields { page, at: 0 };
        if fields.take() != MAGIC {
            return Err(Error::format("no session file: its first bytes are others"));
        }
        let version = fields.u32();
        if !(1..=VERSION).contains(&version) {
            let what = format!("a session file of version {version}, expected {VERSION}");
            return Err(Error::unsupported(what));
        }
        let sum = checked(fields.page, 0).context(|| "its header")?;
        let mut header = Header {
            origin: Origin {
                n_layer: fields.u32(),
                n_vocab: fields.u32(),
                model_hash: 0,
                kv: KvFormat::F16,
                arithmetic: String::new(),
            },
            has_logits: fields.u32() != 0,
            n_tokens: 0,
            tokens_hash: 0,
            body_bytes: 0,
            points: Vec::new(),
        };
        header.origin.model_hash = fields.u64();
        header.n_tokens = fields.u64();
        header.tokens_hash = fields.u64();
        header.body_bytes = fields.u64();
        header.origin.kv =
            KvFormat::parse(&fields.text()).map_err(|e| Error::format(e.to_string()))?;
        header.origin.arithmetic = fields.text();
        // Version 1 has zeros here.
        let n_points = fields.u64();
        if n_points > POINTS as u64 {
            return Err(Error::limit("points of a session", n_points, POINTS));
        }
        let mut before = 0;
        for _ in 0..n_points {
            let point = SavedPoint {
                n_tokens: fields.u64(),
                tokens_hash: fields.u64(),
                is_shared: fields.u64() != 0,
            };
            if !(before + 1..=header.n_tokens).contains(&point.n_tokens) {
                return Err(Error::format(format!(
                    "a point at {} tokens, expected {} to {}",
                    point.n_tokens,
                    before + 1,
                    header.n_tokens
                )));
            }
            before = point.n_tokens;
            header.points.push(point);
        }
        Ok((header, sum))
    }
}

/// The fields of a header's page, one after the other. They end long before the page does.
struct Fields<'a> {
    page: &'a mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.page[self.at..self.at + N]);
        self.at += N;
        field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let field: [u8; NAME] = self.take();
        let len = field.iter().position(|b| *b == 0).unwrap_or(NAME);
        String::from_utf8_lossy(&field[..len]).into_owned()
    }
}

/// A name of up to [`NAME`] bytes.
fn padded(name: &str) -> Result<[u8; NAME]> {
    let mut field = [0; NAME];
    let Some(part) = field.get_mut(..name.len()) else {
        return Err(Error::limit("bytes of a name", name.len(), NAME));
    };
    part.copy_from_slice(name.as_bytes());
    Ok(field)
}

/// Mixes a word into a hash. For one of both it is a bijection in the other: two inputs that differ in one word only never
/// have the same hash.
fn mix(hash: u64, word: u64) -> u64 {
    // The odd constant of Knuth's multiplicative hash, 2^64 / phi.
    (hash ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}

/// The hash of a list of tokens, which is known for each of its beginnings on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokensHash(pub u64);

impl TokensHash {
    /// That of no tokens.
    pub const EMPTY: TokensHash = TokensHash(0x5851_f42d_4c95_7f2d);

    /// With one token more.
    #[must_use]
    pub fn then(self, token: TokenId) -> TokensHash {
        TokensHash(mix(self.0, u64::from(token.0)))
    }

    /// Of all `tokens`.
    pub fn of(tokens: &[TokenId]) -> TokensHash {
        tokens
            .iter()
            .fold(TokensHash::EMPTY, |hash, token| hash.then(*token))
    }
}

impl Origin {
    /// A hash of all of it.
    fn hash(&self) -> u64 {
        let numbers = [self.model_hash, self.n_layer.into(), self.n_vocab.into()];
        let names = self.kv.name().bytes().chain([0]);
        let names = names.chain(self.arithmetic.bytes()).map(u64::from);
        numbers.into_iter().chain(names).fold(0, mix)
    }
}

/// The checksum of a block in front of its last [`SUM`] bytes, which are 0, after a block with the checksum `before`.
fn checksum(block: &[u8], before: u64) -> u64 {
    // Four chains, since each waits for its multiplication.
    let mut lanes = [1, 2, 3, 4].map(|lane| mix(before, lane));
    let (groups, _) = block.as_chunks::<32>(); // whole pages: nothing is left
    for group in groups {
        let (words, _) = group.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    lanes.into_iter().fold(before, mix)
}

/// Compares the checksum at the end of a block, zeroes its place and returns it.
fn checked(block: &mut [u8], before: u64) -> Result<u64> {
    let at = block.len() - SUM;
    let mut found = [0; SUM];
    found.copy_from_slice(&block[at..]);
    block[at..].fill(0);
    let (found, expected) = (u64::from_le_bytes(found), checksum(block, before));
    if found != expected {
        return Err(Error::format(format!(
            "damaged: found the checksum {found:016x}, expected {expected:016x}"
        )));
    }
    Ok(found)
}

/// Writes a session file, a block at a time.
pub struct Writer {
    out: NewFile,
    block: AlignedBuf,
    used: usize,
    offset: u64,
    sum: u64,
    /// Bytes of the body that are still to come.
    left: u64,
}

impl Writer {
    /// Begins the file with its header.
    ///
    /// Errors: a failed write, refused memory.
    pub fn create(out: NewFile, header: &Header) -> Result<Writer> {
        let mut writer = Writer {
            out,
            block: AlignedBuf::zeroed(BLOCK)?,
            used: 0,
            offset: 0,
            sum: 0,
            left: header.body_bytes,
        };
        header.put(writer.block.as_mut_slice())?;
        writer.flush(PAGE)?;
        Ok(writer)
    }

    /// Appends to the body.
    ///
    /// Errors: a failed write, more bytes than the header said.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        let Some(left) = self.left.checked_sub(len) else {
            let what = "bytes written to the body of a session";
            return Err(Error::limit(what, len, self.left));
        };
        self.left = left;
        while !bytes.is_empty() {
            let n = bytes.len().min(BLOCK - SUM - self.used);
            let (now, rest) = bytes.split_at(n);
            self.block.as_mut_slice()[self.used..self.used + n].copy_from_slice(now);
            self.used += n;
            bytes = rest;
            if self.used == BLOCK - SUM {
                self.flush(BLOCK)?;
            }
        }
        Ok(())
    }

    /// Ends the file and puts it in its place.
    ///
    /// Errors: a failed write, fewer bytes than the header said.
    pub fn finish(mut self) -> Result<()> {
        if self.left > 0 {
            let what = format!("the body of a session ends {} bytes too early", self.left);
            return Err(Error::format(what));
        }
        if self.used > 0 {
            self.flush((self.used + SUM).next_multiple_of(PAGE))?;
        }
        self.out.finish()
    }

    /// Writes the first `len` bytes of the block with their checksum.
    fn flush(&mut self, len: usize) -> Result<()> {
        let block = &mut self.block.as_mut_slice()[..len];
        self.sum = checksum(block, self.sum);
        block[len - SUM..].copy_from_slice(&self.sum.to_le_bytes());
        self.out.write_at(self.offset, block)?;
        block.fill(0);
        self.offset += len as u64;
        self.used = 0;
        Ok(())
    }
}

/// Reads a session file, a block at a time; nothing of a block is given out before its checksum was found right.
pub struct Reader {
    source: Box<dyn ReadAt>,
    header: Header,
    block: AlignedBuf,
    /// What is left of the block.
    part: std::ops::Range<usize>,
    offset: u64,
    sum: u64,
    /// Bytes of the body that are not read from the file yet.
    left: u64,
}

impl Reader {
    /// Reads the header. All errors name the file.
    ///
    /// Errors: a failed read, no session file or one of another version, damage, a file of another length than it says.
    pub fn open(source: Box<dyn ReadAt>) -> Result<Reader> {
        let name = source.name().to_string();
        Reader::read_header(source).context(|| name)
    }

    fn read_header(source: Box<dyn ReadAt>) -> Result<Reader> {
        let found = source.len();
        if found < PAGE as u64 {
            let what = format!("no session file: found {found} bytes, expected at least {PAGE}");
            return Err(Error::format(what));
        }
        let mut page = AlignedBuf::zeroed(PAGE)?;
        source.read_window(0, page.as_mut_slice(), PAGE)?;
        let (header, sum) = Header::get(page.as_mut_slice())?;
        if header.file_bytes() != Some(found) {
            let expected = header.file_bytes().unwrap_or(u64::MAX);
            let what = format!("cut or grown: found {found} bytes, expected {expected}");
            return Err(Error::format(what));
        }
        Ok(Reader {
            source,
            block: AlignedBuf::zeroed(BLOCK)?,
            part: 0..0,
            offset: PAGE as u64,
            sum,
            left: header.body_bytes,
            header,
        })
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub fn name(&self) -> &str {
        self.source.name()
    }

    /// Fills `bytes` with the next ones of the body.
    ///
    /// Errors: a failed read, damage, the end of the body.
    pub fn read(&mut self, mut bytes: &mut [u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.part.is_empty() {
                let name = self.source.name().to_string();
                self.next_block().context(|| name)?;
            }
            let n = bytes.len().min(self.part.len());
            let (now, rest) = bytes.split_at_mut(n);
            now.copy_from_slice(&self.block.as_slice()[self.part.start..self.part.start + n]);
            self.part.start += n;
            bytes = rest;
        }
        Ok(())
    }

    /// Reads what is left of the body and forgets it, to find damage.
    ///
    /// Errors: as [`Reader::read`].
    pub fn verify(mut self) -> Result<()> {
        let name = self.source.name().to_string();
        while self.left > 0 {
            self.next_block().context(|| &name)?;
        }
        Ok(())
    }

    fn next_block(&mut self) -> Result<()> {
        let used = self.left.min((BLOCK - SUM) as u64) as usize;
        if used == 0 {
            return Err(Error::format("the body of the session ends too early"));
        }
        let len = (used + SUM).next_multiple_of(PAGE);
        let block = &mut self.block.as_mut_slice()[..len];
        self.source.read_window(self.offset, block, len)?;
        let (first, end) = (self.offset, self.offset + len as u64);
        self.sum = checked(block, self.sum).context(|| format!("bytes {first} to {end}"))?;
        self.offset = end;
        self.left -= used as u64;
        self.part = 0..used;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
