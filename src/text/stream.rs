//! Bytes that arrive in pieces, as whole characters: a token may end in the middle of one.

/// Turns the bytes of a stream into text as soon as its characters are whole.
///
/// The text equals [`String::from_utf8_lossy`] of all the bytes, however they were cut.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The start of a character whose rest has not come; at most 3 bytes between calls.
    tail: Vec<u8>,
    /// What the last call gave.
    text: String,
}

impl Utf8Stream {
    /// Takes `bytes` and gives the characters that they complete; bytes that cannot belong to a character
    /// become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.text.clear();
        self.tail.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.tail.utf8_chunks() {
            self.text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() || done + invalid.len() == self.tail.len() && may_go_on(invalid) {
                break;
            }
            self.text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.tail.drain(..done);
        &self.text
    }

    /// Ends the stream: a character that is not whole becomes U+FFFD. The stream can be used anew.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.tail.is_empty() {
            self.tail.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }
}

/// Whether more bytes could make a character of these, which are none.
fn may_go_on(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn characters_come_when_they_are_whole() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xe2"), "a");
        assert_eq!(stream.push(b"\x82"), "");
        assert_eq!(stream.push(b"\xac!"), "€!");
        assert_eq!(stream.push(b"\xf0\x9f\x91\x8d"), "👍");
        assert_eq!(stream.push(b""), "");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn wrong_bytes_do_not_hold_up_the_rest() {
        let mut stream = Utf8Stream::default();
        // A character cut short by another, a byte that begins none, an overlong form, a surrogate.
        assert_eq!(stream.push(b"\xe2\x82A"), "\u{fffd}A");
        assert_eq!(stream.push(b"\xffB"), "\u{fffd}B");
        assert_eq!(stream.push(b"\xc0\xaf"), "\u{fffd}\u{fffd}");
        assert_eq!(stream.push(b"\xed\xa0\x80"), "\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(stream.push(b"\xf0\x9f\x91"), "");
        assert_eq!(stream.finish(), "\u{fffd}");
        assert_eq!(stream.finish(), "");
        assert_eq!(stream.push(b"again"), "again");
    }

    #[test]
    fn equals_the_lossy_text_of_the_whole_however_it_is_cut() {
        const PARTS: &[&[u8]] = &[
            b"a",
            b"\xc3\xa9",
            b"\xe2\x82\xac",
            b"\xf0\x9f\x91\x8d",
            b"\xe2\x82",
            b"\xf0\x9f",
            b"\x80",
            b"\xff",
        ];
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let bytes: Vec<u8> = (0..12)
                .flat_map(|_| PARTS[rng.below(PARTS.len())])
                .copied()
                .collect();
            let mut stream = Utf8Stream::default();
            let mut text = String::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rng.below(rest.len() + 1));
                text += stream.push(piece);
                rest = after;
            }
            text += stream.finish();
            assert_eq!(
                text,
                String::from_utf8_lossy(&bytes),
                "seed {seed}: {bytes:x?}"
            );
        }
    }
}
