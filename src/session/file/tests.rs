use super::*;
use crate::os::MemFile;
use std::path::PathBuf;

/// A session file on the disk, removed with this value.
struct Written(PathBuf);

impl Drop for Written {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn header(body_bytes: u64) -> Header {
    Header {
        origin: Origin {
            model_hash: 0x1234_5678_9abc_def0,
            n_layer: 3,
            n_vocab: 500,
            kv: KvFormat::Official,
            arithmetic: "cpu test".into(),
        },
        n_tokens: 7,
        tokens_hash: 99,
        has_logits: true,
        body_bytes,
        points: vec![SavedPoint {
            n_tokens: 3,
            tokens_hash: 98,
            is_shared: true,
        }],
    }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// The file of a body, written in pieces of some length.
fn file_of(name: &str, body: &[u8], piece: usize) -> Vec<u8> {
    let name = format!("infall-{}-{name}", std::process::id());
    let written = Written(std::env::temp_dir().join(name));
    let header = header(body.len() as u64);
    let mut writer = Writer::create(NewFile::create(&written.0).unwrap(), &header).unwrap();
    for piece in body.chunks(piece) {
        writer.write(piece).unwrap();
    }
    writer.finish().unwrap();
    let bytes = std::fs::read(&written.0).unwrap();
    assert_eq!(header.file_bytes(), Some(bytes.len() as u64));
    bytes
}

fn open(bytes: &[u8]) -> Result<Reader> {
    Reader::open(Box::new(MemFile::new("x.session", bytes.to_vec())))
}

/// What a reader says of a file, read to its end.
fn fault(bytes: &[u8]) -> Option<String> {
    open(bytes)
        .and_then(Reader::verify)
        .err()
        .map(|e| e.to_string())
}

#[test]
fn what_was_written_is_read_whatever_the_pieces() {
    let room = BLOCK - SUM;
    for (len, piece, read) in [
        (0, 1, 1),
        (1, 1, 1),
        (PAGE - SUM, 1000, 777),
        (PAGE - SUM + 1, 5000, 4096),
        (room, 1 << 16, 1 << 16),
        (room + 1, room + 1, 3),
        (2 * room + 12_345, 65_521, room + 1),
    ] {
        let body = body(len);
        let file = file_of("pieces", &body, piece);
        assert_eq!(file.len() % PAGE, 0);
        let mut reader = open(&file).unwrap();
        assert_eq!(reader.header(), &header(len as u64));
        let mut found = vec![0; len];
        for part in found.chunks_mut(read) {
            reader.read(part).unwrap();
        }
        assert!(found == body, "{len} bytes");
        let error = reader.read(&mut [0]).unwrap_err().to_string();
        assert!(error.ends_with("ends too early"), "{error}");
        assert_eq!(fault(&file), None);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_place_is_named() {
    let body = body(BLOCK + 100_000);
    let file = file_of("flip", &body, 1 << 20);
    let (first, second) = (PAGE, PAGE + BLOCK);
    // All of the header's fields, its zeros, every checksum, the ends of blocks and of the padding; and many in between.
    let mut places: Vec<usize> = (0..200).collect();
    for end in [first, second, file.len()] {
        places.extend(end - 40..(end + 40).min(file.len()));
    }
    places.extend((0..file.len()).step_by(4099));
    for at in places {
        let mut damaged = file.clone();
        damaged[at] ^= 1 << (at % 8);
        let fault = fault(&damaged).unwrap_or_else(|| panic!("byte {at} was flipped unseen"));
        let expected = match at {
            0..8 => "no session file",
            8..12 => "of version",
            _ if at < first => "its header: damaged: found the checksum",
            _ if at < second => "bytes 16384 to 1064960: damaged: found the checksum",
            _ => "bytes 1064960 to ",
        };
        assert!(fault.starts_with("x.session: "), "{fault}");
        assert!(fault.contains(expected), "byte {at}: {fault}");
    }
}

#[test]
fn blocks_that_change_places_are_found() {
    let file = file_of("swap", &vec![7; 3 * BLOCK], 1 << 20);
    let mut swapped = file.clone();
    swapped.copy_within(PAGE + BLOCK..PAGE + 2 * BLOCK, PAGE);
    let fault = fault(&swapped).unwrap();
    assert!(fault.contains("bytes 16384 to 1064960"), "{fault}");
}

#[test]
fn a_file_that_was_cut_or_grew_is_refused() {
    let file = file_of("cut", &body(100_000), 1 << 20);
    for len in (0..file.len()).step_by(509) {
        let fault = fault(&file[..len]).unwrap();
        assert!(fault.contains(&format!("found {len} bytes")), "{fault}");
    }
    let mut grown = file;
    grown.push(0);
    assert!(fault(&grown).unwrap().contains("cut or grown"));
}

/// A file as it was before there were points.
#[test]
fn a_file_of_version_1_has_no_points() {
    let mut file = file_of("old", &body(100), 100);
    file[8..12].copy_from_slice(&1u32.to_le_bytes());
    file[184..PAGE].fill(0);
    let sum = checksum(&file[..PAGE], 0).to_le_bytes();
    file[PAGE - SUM..PAGE].copy_from_slice(&sum);
    // The body's checksum goes on from the header's.
    let body = &mut file[PAGE..];
    let at = body.len() - SUM;
    body[at..].fill(0);
    let sum = checksum(body, u64::from_le_bytes(sum)).to_le_bytes();
    body[at..].copy_from_slice(&sum);
    let reader = open(&file).unwrap();
    assert!(reader.header().points.is_empty());
    assert_eq!(reader.header().n_tokens, 7);
    reader.verify().unwrap();
}

/// Headers with a right checksum, but made by an enemy.
#[test]
fn a_lying_header_is_refused() {
    let file = file_of("lies", &body(100), 100);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file[PAGE - SUM..PAGE].fill(0);
        let sum = checksum(&file[..PAGE], 0).to_le_bytes();
        file[PAGE - SUM..PAGE].copy_from_slice(&sum);
        fault(&file).unwrap_or_else(|| panic!("a lie at {at} was believed"))
    };
    // The body's length, as large as it can be and one page more.
    for n in [u64::MAX, u64::MAX - (1 << 20), 20_000] {
        assert!(with(48, &n.to_le_bytes()).contains("cut or grown"));
    }
    assert!(with(56, b"f17\0").contains("'f17' is unknown"));
    for version in [0u32, 3] {
        assert!(with(8, &version.to_le_bytes()).contains("expected 2"));
    }
    // Points: more than there can be, none at 0 tokens, none behind the end, ascending.
    assert!(with(184, &9u64.to_le_bytes()).contains("9 exceeds the limit 8"));
    for n in [0u64, 8, u64::MAX] {
        let fault = with(192, &n.to_le_bytes());
        assert!(fault.contains("expected 1 to 7"), "{fault}");
    }
    assert!(with(184, &2u64.to_le_bytes()).contains("expected 4 to 7"));
}

#[test]
fn a_writer_keeps_to_what_the_header_said() {
    let place = std::env::temp_dir().join(format!("infall-{}-said", std::process::id()));
    let writer = || Writer::create(NewFile::create(&place).unwrap(), &header(10)).unwrap();
    let error = writer().write(&[0; 11]).unwrap_err().to_string();
    assert!(error.contains("11 exceeds the limit 10"), "{error}");
    let mut short = writer();
    short.write(&[0; 9]).unwrap();
    let error = short.finish().unwrap_err().to_string();
    assert!(error.contains("ends 1 bytes too early"), "{error}");
    assert!(!place.exists());
}

#[test]
fn an_origin_says_what_is_different() {
    let ours = header(0).origin;
    ours.check(&ours).unwrap();
    type Change = fn(&mut Origin);
    let changes: [(Change, &str); 5] = [
        (
            |o| o.model_hash = 1,
            "computed with model 0000000000000001, expected 123456789abcdef0",
        ),
        (|o| o.n_layer = 4, "computed with layers: 4, expected 3"),
        (
            |o| o.n_vocab = 4,
            "computed with vocabulary of 4 tokens, expected 500 tokens",
        ),
        (
            |o| o.kv = KvFormat::F32,
            "computed with KV form f32, expected official",
        ),
        (
            |o| o.arithmetic.clear(),
            "computed with arithmetic , expected cpu test",
        ),
    ];
    for (change, expected) in changes {
        let mut other = ours.clone();
        change(&mut other);
        assert_ne!(other.hash(), ours.hash());
        assert_eq!(other.check(&ours).unwrap_err().to_string(), expected);
    }
}

/// By the definition, with Python's integers: a change of the function would make every kept session look damaged.
#[test]
fn the_hashes_stay_what_they_are() {
    let tokens = [TokenId(1), TokenId(4095)];
    let all = TokensHash::of(&tokens);
    assert_eq!(TokensHash::EMPTY.then(tokens[0]).then(tokens[1]), all);
    assert_eq!(all.0, TOKENS);
    let block: Vec<u8> = (0..64).collect();
    assert_eq!(checksum(&block, 5), SUM_OF_BLOCK);
}

const TOKENS: u64 = 0xf061_1f51_592d_3093;
const SUM_OF_BLOCK: u64 = 0xa9bf_9973_fee4_2028;
