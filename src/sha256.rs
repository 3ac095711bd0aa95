//! SHA-256, by which a downloaded file is told from the published one. Source: FIPS 180-4, sections 4 to 6.

/// Bytes that are mixed in at a time.
const BLOCK: usize = 64;

/// The constants of the 64 rounds: the first 32 bits behind the point of the cube roots of the first 64 primes.
const ROUNDS: [u32; 64] = root_fractions(3);

/// The state before the first block: the same of the square roots of the first 8 primes.
const START: [u32; 8] = root_fractions(2);

/// A hash that is being computed.
#[derive(Clone, Debug)]
pub struct Sha256 {
    state: [u32; 8],
    /// The last bytes, which do not fill a block yet.
    rest: [u8; BLOCK],
    n_rest: usize,
    n_bytes: u64,
}

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256::new()
    }
}

impl Sha256 {
    /// Of no bytes so far.
    pub fn new() -> Sha256 {
        Sha256 {
            state: START,
            rest: [0; BLOCK],
            n_rest: 0,
            n_bytes: 0,
        }
    }

    /// Appends bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.n_bytes += bytes.len() as u64;
        if self.n_rest > 0 {
            let n = bytes.len().min(BLOCK - self.n_rest);
            let (head, tail) = bytes.split_at(n);
            self.rest[self.n_rest..self.n_rest + n].copy_from_slice(head);
            self.n_rest += n;
            bytes = tail;
            if self.n_rest < BLOCK {
                return;
            }
            mix(&mut self.state, &self.rest);
        }
        let (blocks, rest) = bytes.as_chunks();
        blocks.iter().for_each(|block| mix(&mut self.state, block));
        self.rest[..rest.len()].copy_from_slice(rest);
        self.n_rest = rest.len();
    }

    /// The hash of all bytes.
    pub fn finish(mut self) -> [u8; 32] {
        // A one bit, then zeros up to the length in bits, which ends a block.
        let n_bits = self.n_bytes.wrapping_mul(8);
        let n_zeros = (BLOCK - 9).wrapping_sub(self.n_rest) % BLOCK;
        let mut padding = [0; 2 * BLOCK];
        padding[0] = 0x80;
        padding[n_zeros + 1..n_zeros + 9].copy_from_slice(&n_bits.to_be_bytes());
        self.update(&padding[..n_zeros + 9]);
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        hash
    }
}

/// A hash as it is published: 64 lower-case hexadecimal digits.
pub fn hex(hash: &[u8; 32]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('?'); // below 16
    let digits = hash.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]);
    digits.collect()
}

/// The hash that 64 hexadecimal digits of either case stand for; `None` for anything else.
pub fn from_hex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|c| char::from(c).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(hash)
}

/// Mixes a block into the state.
fn mix(state: &mut [u32; 8], block: &[u8; BLOCK]) {
    // The 16 words that the next rounds use; each makes room for the one 16 rounds later.
    let mut w = [0_u32; 16];
    for (word, bytes) in w.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    let mut s = *state;
    let (first, later) = ROUNDS.split_at(16);
    for (k, w) in first.iter().zip(w) {
        s = round(s, k.wrapping_add(w));
    }
    for constants in later.as_chunks::<16>().0 {
        for i in 0..16 {
            let (a, b) = (w[(i + 14) % 16], w[(i + 1) % 16]);
            let a = a.rotate_right(17) ^ a.rotate_right(19) ^ (a >> 10);
            let b = b.rotate_right(7) ^ b.rotate_right(18) ^ (b >> 3);
            w[i] = w[i]
                .wrapping_add(a)
                .wrapping_add(b)
                .wrapping_add(w[(i + 9) % 16]);
            s = round(s, constants[i].wrapping_add(w[i]));
        }
    }
    for (word, add) in state.iter_mut().zip(s) {
        *word = word.wrapping_add(add);
    }
}

/// One round; `wk` is the word and the constant of it.
#[inline(always)]
fn round([a, b, c, d, e, f, g, h]: [u32; 8], wk: u32) -> [u32; 8] {
    let mixed_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
    let choice = g ^ (e & (f ^ g));
    let t = h
        .wrapping_add(mixed_e)
        .wrapping_add(choice)
        .wrapping_add(wk);
    let mixed_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
    let majority = (a & b) | (c & (a | b));
    let next = t.wrapping_add(mixed_a).wrapping_add(majority);
    [next, a, b, c, d.wrapping_add(t), e, f, g]
}

/// The first 32 bits behind the point of the roots (of degree 2 or 3) of the first `N` primes.
const fn root_fractions<const N: usize>(degree: u32) -> [u32; N] {
    let mut fractions = [0; N];
    let (mut n, mut candidate) = (0, 2_u128);
    while n < N {
        if is_prime(candidate) {
            // The root of p times 2^32 is the root of p times 2^(32 degree); the largest has 36 bits.
            let power = candidate << (32 * degree);
            let (mut low, mut high) = (0_u128, 1 << 37);
            while high - low > 1 {
                let middle = (low + high) / 2;
                if middle.pow(degree) <= power {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            fractions[n] = low as u32;
            n += 1;
        }
        candidate += 1;
    }
    fractions
}

const fn is_prime(n: u128) -> bool {
    let mut divisor = 2;
    while divisor * divisor <= n {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> String {
        let mut sha = Sha256::new();
        sha.update(bytes);
        hex(&sha.finish())
    }

    /// The examples that NIST publishes for FIPS 180-4 ("SHA256.pdf" and "SHA2_Additional.pdf").
    #[test]
    fn the_published_examples_give_the_published_hashes() {
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        let cases: [(&[u8], &str); 12] = [
            (
                b"",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                b"abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                two_blocks,
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                &[0xbd],
                "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b",
            ),
            (
                &[0xc9, 0x8c, 0x8e, 0x55],
                "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504",
            ),
            (
                &[0; 55],
                "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7",
            ),
            (
                &[0; 56],
                "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb",
            ),
            (
                &[0; 57],
                "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785",
            ),
            (
                &[0; 64],
                "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b",
            ),
            (
                &[0; 1000],
                "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53",
            ),
            (
                &[0x41; 1000],
                "c2e686823489ced2017f6059b8b239318b6364f6dcd835d0a519105a1eadd6e4",
            ),
            (
                &[0x55; 1005],
                "f4d62ddec0f3dd90ea1380fa16a5ff8dc4c54b21740650f24afc4120903552b0",
            ),
        ];
        for (bytes, expected) in cases {
            assert_eq!(hash(bytes), expected, "{} bytes", bytes.len());
        }
    }

    /// FIPS 180-2, appendix B.3; and in pieces of every kind the hash is the same.
    #[test]
    fn a_million_times_a() {
        let expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        let bytes = vec![b'a'; 1_000_000];
        assert_eq!(hash(&bytes), expected);
        for piece in [1, 3, 63, 64, 65, 127, 1000] {
            let mut sha = Sha256::new();
            bytes.chunks(piece).for_each(|part| sha.update(part));
            assert_eq!(hex(&sha.finish()), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn hashes_are_read_in_either_case() {
        let hash = Sha256::new().finish();
        assert_eq!(from_hex(&hex(&hash)), Some(hash));
        assert_eq!(from_hex(&hex(&hash).to_uppercase()), Some(hash));
        for wrong in ["", "0", &hex(&hash)[1..], &format!("{}0", hex(&hash))] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(from_hex(&hex(&hash).replace('e', "g")), None);
    }
}
