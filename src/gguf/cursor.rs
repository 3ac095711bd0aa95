//! Bounded reads of little-endian values, one after another, through a buffer.

use crate::error::{Error, Result};
use crate::os::ReadAt;

/// Bytes fetched at a time: a header is a few MiB, and one read should cost more than the call for it.
const CHUNK: u64 = 256 * 1024;

/// A position in a source, and the bytes read ahead of it.
///
/// A length is checked against the rest of the source before anything is allocated for it.
pub struct Cursor<'a> {
    source: &'a dyn ReadAt,
    /// Bytes `[fetched - buffer.len(), fetched)` of the source.
    buffer: Vec<u8>,
    fetched: u64,
    /// First byte of `buffer` that is not consumed.
    at: usize,
    /// No byte from here on is read.
    end: u64,
}

impl<'a> Cursor<'a> {
    /// Stands at the first byte of `source` and reads at most `limit` bytes in all.
    pub fn new(source: &'a dyn ReadAt, limit: u64) -> Cursor<'a> {
        Cursor {
            source,
            buffer: Vec::new(),
            fetched: 0,
            at: 0,
            end: source.len().min(limit),
        }
    }

    /// Bytes consumed so far: the offset in the source of the next one.
    pub fn offset(&self) -> u64 {
        self.fetched - (self.buffer.len() - self.at) as u64
    }

    /// Bytes that can still be read.
    pub fn remaining(&self) -> u64 {
        self.end - self.offset()
    }

    /// The next `len` bytes, where `what` names them in an error.
    pub fn take(&mut self, len: u64, what: &str) -> Result<&[u8]> {
        self.require(len, what)?;
        let len = len as usize; // what remains of a source in memory or on disk; checked by `require`
        if self.buffer.len() - self.at < len {
            self.fetch(len)?;
        }
        let start = self.at;
        self.at += len;
        Ok(&self.buffer[start..self.at])
    }

    /// An error when fewer than `len` bytes remain.
    pub fn require(&self, len: u64, what: &str) -> Result<()> {
        if len <= self.remaining() && usize::try_from(len).is_ok() {
            return Ok(());
        }
        let (offset, remaining) = (self.offset(), self.remaining());
        if self.end < self.source.len() {
            return Err(
                Error::limit("header length", offset.saturating_add(len), self.end)
                    .context(format_args!("{what} at {offset}")),
            );
        }
        Err(Error::format(format!(
            "{what} at {offset}: found {remaining} bytes, expected {len}"
        )))
    }

    /// Reads on until `len` bytes are in the buffer; they are known to exist.
    fn fetch(&mut self, len: usize) -> Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let have = self.buffer.len();
        let more = CHUNK.max((len - have) as u64).min(self.end - self.fetched);
        self.buffer.resize(have + more as usize, 0);
        let read = self
            .source
            .read_exact_at(self.fetched, &mut self.buffer[have..]);
        if read.is_err() {
            self.buffer.truncate(have);
        } else {
            self.fetched += more;
        }
        read
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    /// The next 32-bit number.
    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next 64-bit number.
    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The next string: a 64-bit length of at most `limit`, then UTF-8.
    pub fn string(&mut self, limit: u64, what: &str) -> Result<String> {
        let offset = self.offset();
        let len = self.u64(what)?;
        if len > limit {
            let error = Error::limit("length", len, limit);
            return Err(error.context(format_args!("{what} at {offset}")));
        }
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(Error::format(format!("{what} at {offset}: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::MemFile;

    #[test]
    fn values_across_chunks_are_whole() {
        let mut bytes = Vec::new();
        for i in 0..100_000u64 {
            bytes.extend(i.to_le_bytes());
        }
        let file = MemFile::new("numbers", bytes);
        let mut cursor = Cursor::new(&file, u64::MAX);
        cursor.take(3, "odd start").unwrap();
        cursor.take(600_000, "more than a chunk").unwrap();
        assert_eq!(cursor.offset(), 600_003);
        cursor.take(5, "rest of a number").unwrap();
        for i in 75_001..100_000u64 {
            assert_eq!(cursor.u64("number").unwrap(), i);
        }
        assert_eq!(cursor.remaining(), 0);
        let error = cursor.u32("one more").unwrap_err();
        assert_eq!(
            error.to_string(),
            "one more at 800000: found 0 bytes, expected 4"
        );
    }

    #[test]
    fn lengths_are_checked_before_use() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend(b"abc");
        let file = MemFile::new("text", bytes);
        let error = Cursor::new(&file, u64::MAX).string(100, "key").unwrap_err();
        assert!(error.to_string().contains("exceeds the limit 100"));
        let error = Cursor::new(&file, u64::MAX)
            .string(u64::MAX, "key")
            .unwrap_err();
        assert!(error.to_string().contains("found 3 bytes"), "{error}");
        let error = Cursor::new(&file, 4).u64("key").unwrap_err();
        assert!(error.to_string().contains("header length 8"), "{error}");

        let file = MemFile::new("bad", vec![1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        let error = Cursor::new(&file, 100).string(100, "key").unwrap_err();
        assert!(error.to_string().contains("utf-8"), "{error}");
    }
}
