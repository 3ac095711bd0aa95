use super::*;
use crate::os::MemFile;
use std::io::Cursor;

fn header(n_expert: usize) -> Header {
    Header {
        model: "böse.gguf".into(),
        model_hash: 0x0123_4567_89ab_cdef,
        n_layer: 3,
        n_expert,
        n_used: 2,
        n_vocab: 500,
    }
}

/// An expert for each place, all below `n_expert` and in no order.
fn expert(token: usize, layer: usize, i: usize, n_expert: usize) -> ExpertId {
    ExpertId(((token * 131 + layer * 17 + i * 7 + 250) % n_expert) as u32)
}

/// A pass as the graph tells it: layer by layer, in chunks of `chunk` tokens.
fn tell<W: Write + Seek>(
    recorder: &mut Recorder<W>,
    phase: Phase,
    tokens: Range<usize>,
    chunk: usize,
) {
    let (n_layer, n_expert) = (recorder.header.n_layer, recorder.header.n_expert);
    recorder.begin(phase, tokens.len());
    for layer in 0..n_layer {
        for start in (0..tokens.len()).step_by(chunk) {
            let part = start..(start + chunk).min(tokens.len());
            let ids: Vec<ExpertId> = part
                .clone()
                .flat_map(|t| (0..2).map(move |i| (t, i)))
                .map(|(t, i)| expert(tokens.start + t, layer, i, n_expert))
                .collect();
            recorder.chosen(LayerId(layer), part, &ids);
        }
    }
}

/// Seven tokens of prompt, then two decoded.
fn trace(n_expert: usize, chunk: usize) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let mut recorder = Recorder::new(&mut out, "trace", header(n_expert), 5).unwrap();
    for (phase, tokens) in [
        (Phase::Prefill, 0..5),
        (Phase::Prefill, 5..7),
        (Phase::Decode, 7..8),
        (Phase::Decode, 8..9),
    ] {
        tell(&mut recorder, phase, tokens, chunk);
        recorder.end().unwrap();
    }
    out.into_inner()
}

/// Tokens that can be read, or the first error.
fn read(bytes: &[u8]) -> Result<Vec<(Phase, Vec<ExpertId>)>> {
    let mut reader = Reader::new(bytes, "trace")?;
    let mut tokens = Vec::new();
    while let Some((phase, ids)) = reader.token()? {
        tokens.push((phase, ids.to_vec()));
    }
    Ok(tokens)
}

#[test]
fn what_is_written_is_read() {
    for (n_expert, id_len) in [(2, 1), (256, 1), (257, 2), (4096, 2)] {
        let bytes = trace(n_expert, 5);
        assert_eq!(
            bytes.len(),
            48 + "böse.gguf".len() + 9 * (1 + 3 * 2 * id_len)
        );
        let reader = Reader::new(&bytes[..], "trace").unwrap();
        assert_eq!((reader.header(), reader.n_tokens()), (&header(n_expert), 9));
        let tokens = read(&bytes).unwrap();
        assert_eq!(tokens.len(), 9);
        for (t, (phase, ids)) in tokens.iter().enumerate() {
            let expected_phase = if t < 7 { Phase::Prefill } else { Phase::Decode };
            let places = (0..3).flat_map(|l| (0..2).map(move |i| (l, i)));
            let expected: Vec<_> = places.map(|(l, i)| expert(t, l, i, n_expert)).collect();
            assert_eq!((*phase, ids), (expected_phase, &expected), "token {t}");
        }
        for chunk in [1, 2, 3] {
            assert_eq!(trace(n_expert, chunk), bytes, "chunks of {chunk}");
        }
    }
}

/// The layout, byte by byte, so that a later version cannot change it unnoticed.
#[test]
fn the_bytes_are_those_of_the_description() {
    let mut out = Cursor::new(Vec::new());
    let small = Header {
        model: "m".into(),
        model_hash: 9,
        n_layer: 1,
        n_expert: 300,
        n_used: 2,
        n_vocab: 7,
    };
    let mut recorder = Recorder::new(&mut out, "trace", small, 1).unwrap();
    recorder.begin(Phase::Decode, 1);
    recorder.chosen(LayerId(0), 0..1, &[ExpertId(258), ExpertId(3)]);
    recorder.end().unwrap();
    let expected = b"infallRT\x01\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\
        \x01\0\0\0\x2c\x01\0\0\x02\0\0\0\x07\0\0\0\x01\0\0\0m\
        \x01\x02\x01\x03\0";
    assert_eq!(out.into_inner(), expected);
}

#[test]
fn a_pass_that_does_not_end_leaves_nothing() {
    let mut out = Cursor::new(Vec::new());
    let mut recorder = Recorder::new(&mut out, "trace", header(256), 5).unwrap();
    tell(&mut recorder, Phase::Prefill, 0..3, 2);
    tell(&mut recorder, Phase::Decode, 3..4, 1);
    recorder.end().unwrap();
    tell(&mut recorder, Phase::Prefill, 4..8, 2);
    assert_eq!(read(&out.into_inner()).unwrap().len(), 1);
}

#[test]
fn every_cut_is_an_error() {
    for n_expert in [256, 257] {
        let bytes = trace(n_expert, 2);
        for len in 0..bytes.len() {
            let error = read(&bytes[..len]).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("trace: "), "{text}");
            assert!(
                text.contains("found") && text.contains("expected"),
                "{text}"
            );
        }
        let longer = [&bytes[..], b"x"].concat();
        let text = read(&longer).unwrap_err().to_string();
        assert!(text.contains("expected the end behind 9 tokens"), "{text}");
    }
}

#[test]
fn flipped_bytes_are_errors_or_sound_values() {
    for n_expert in [16, 300] {
        let bytes = trace(n_expert, 2);
        for at in 0..bytes.len() {
            for flip in [1, 2, 0x10, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let Ok(tokens) = read(&changed) else { continue };
                let mut reader = Reader::new(&changed[..], "trace").unwrap();
                let n_expert = reader.header().n_expert;
                assert!(reader.token().unwrap().is_some());
                let mut ids = tokens.iter().flat_map(|(_, ids)| ids);
                assert!(ids.all(|id| (id.0 as usize) < n_expert), "byte {at}");
            }
        }
    }
}

#[test]
fn lying_headers_are_named() {
    let bytes = trace(256, 2);
    for (at, value, expected) in [
        (0, 0, "not a route trace"),
        (8, 2, "version: found 2, expected 1"),
        (28, 0, "layers: found 0, expected 1 to 512"),
        (28, 1 << 31, "layers: found 2147483648, expected 1 to 512"),
        (32, 4097, "experts: found 4097, expected 1 to 4096"),
        (
            32,
            1,
            "experts used: found 2, expected at most 1, all experts",
        ),
        (36, 65, "experts used: found 65, expected 1 to 64"),
        (40, 0, "tokens of the vocabulary: found 0"),
        (
            44,
            4097,
            "length of the model name 4097 exceeds the limit 4096",
        ),
    ] {
        let mut changed = bytes.clone();
        changed[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        let text = read(&changed).unwrap_err().to_string();
        assert!(
            text.starts_with("trace: ") && text.contains(expected),
            "{text}"
        );
    }
    let first_token = 48 + "böse.gguf".len();
    for (at, value, expected) in [
        (
            first_token,
            2,
            "trace: token 0 of 9: phase: found 2, expected 0 (prefill) or 1 (decode)",
        ),
        (
            first_token + 3,
            16,
            "trace: token 0 of 9: layer 1: found expert 16, expected below 16",
        ),
    ] {
        let mut changed = trace(16, 2);
        changed[at] = value;
        assert_eq!(read(&changed).unwrap_err().to_string(), expected);
    }
}

/// A file on a disk that takes only so many writes, and whole ones only.
struct Failing {
    inner: Cursor<Vec<u8>>,
    left: usize,
}

impl Write for Failing {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::Error::from(ErrorKind::StorageFull));
        }
        self.left -= 1;
        self.inner.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn each_failed_write_is_an_error_and_never_a_panic() {
    let mut n_failed = 0;
    loop {
        let mut out = Failing {
            inner: Cursor::new(Vec::new()),
            left: n_failed,
        };
        let result = Recorder::new(&mut out, "full.disk", header(256), 5).and_then(|mut r| {
            for t in [0..4, 4..5] {
                tell(&mut r, Phase::Prefill, t, 3);
                r.end()?;
            }
            Ok(())
        });
        let Err(error) = result else { break };
        assert_eq!(error.kind(), crate::error::ErrorKind::Io);
        let text = error.to_string();
        assert!(text.starts_with("route trace full.disk: "), "{text}");
        // What was written before the fault is whole, or the reader says that it is not.
        if let Ok(tokens) = read(out.inner.get_ref()) {
            assert!(tokens.len() < 5);
        }
        n_failed += 1;
    }
    assert_eq!(n_failed, 6, "header, count, and twice a pass and its count");
}

#[test]
fn the_hash_is_fnv_and_tells_models_apart() {
    // Published values of FNV-1a, 64 bits.
    assert_eq!(fnv1a(FNV_START, b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(FNV_START, b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv1a(FNV_START, b"foobar"), 0x8594_4171_f739_67e8);

    let bytes: Vec<u8> = (0..400_000u32).map(|i| (i % 251) as u8).collect();
    let hash = |bytes: &[u8]| model_hash([(&MemFile::new("m", bytes.to_vec()), 300_000)]).unwrap();
    let whole = fnv1a(FNV_START, &400_000u64.to_le_bytes());
    assert_eq!(hash(&bytes), fnv1a(whole, &bytes[..300_000 + (64 << 10)]));
    for at in [0, 262_144, 299_999, 300_000, 365_535] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_ne!(hash(&changed), hash(&bytes), "byte {at}");
    }
    assert_ne!(hash(&bytes[..399_999]), hash(&bytes));
    // Shorter than its header says: the reader of the header has refused it before.
    assert!(model_hash([(&MemFile::new("m", vec![1]), u64::MAX)]).is_ok());
}
