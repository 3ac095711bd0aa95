use super::writer::Writer;
use super::*;
use crate::os::{File, MemFile};
use std::path::Path;
use std::time::Instant;

/// A small file with a value of each type the writer knows, and three tensors.
fn sample(writer: Writer) -> MemFile {
    let mut w = writer;
    w.string("general.architecture", "sample")
        .u32("a.u32", 7)
        .u64("a.u64", 1 << 40)
        .f32("a.f32", 1e-6)
        .bool("a.bool", true)
        .u32_array("a.u32s", &[1, 2, 3])
        .i32_array("a.i32s", &[-1, 2])
        .f32_array("a.f32s", &[0.5, 10.0])
        .string_array("a.strings", &["", "ä", "x y"]);
    w.tensor("one", &[3], Format::F32).unwrap();
    w.tensor("two", &[64, 2], Format::Q8_0).unwrap();
    w.alias("three", &[32], Format::Q8_0, "two").unwrap();
    let mut bytes = Vec::new();
    w.write(&mut bytes, |tensor, sink| {
        sink.put(&vec![tensor.name.len() as u8; tensor.extent.len as usize])
    })
    .unwrap();
    MemFile::new("sample", bytes)
}

#[test]
fn what_is_written_is_read() {
    for (writer, version, alignment) in [
        (Writer::new(), 3, 32),
        (Writer::new().version_2(), 2, 32),
        (Writer::new().aligned(4096).unwrap(), 3, 4096),
    ] {
        let file = sample(writer);
        let gguf = Gguf::read(&file).unwrap();
        assert_eq!((gguf.version, gguf.alignment), (version, alignment));
        assert_eq!(gguf.string("general.architecture").unwrap(), "sample");
        assert_eq!(gguf.u32("a.u32").unwrap(), 7);
        assert_eq!(gguf.value("a.u64"), Some(&Value::Uint(1 << 40)));
        assert_eq!(gguf.f32("a.f32").unwrap(), 1e-6);
        assert_eq!(gguf.opt_bool("a.bool").unwrap(), Some(true));
        assert_eq!(gguf.u32_array("a.u32s").unwrap(), [1, 2, 3]);
        assert_eq!(gguf.opt_i32_array("a.i32s").unwrap().unwrap(), [-1, 2]);
        assert_eq!(gguf.f32_array("a.f32s").unwrap(), [0.5, 10.0]);
        assert_eq!(gguf.string_array("a.strings").unwrap(), ["", "ä", "x y"]);
        assert!(gguf.keys().any(|key| key == "a.strings"));

        let data_start = gguf.data_start;
        assert!(data_start.is_multiple_of(u64::from(alignment)));
        let two = gguf.tensor("two").unwrap();
        assert_eq!(
            (two.dims.as_slice(), two.format),
            (&[64, 2][..], Format::Q8_0)
        );
        let offset = data_start + u64::from(alignment);
        assert_eq!(two.extent, Extent { offset, len: 136 });
        assert_eq!(gguf.tensor("three").unwrap().extent.offset, offset);
        assert_eq!(gguf.tensor("four"), None);
        let expected = "1 tensors share data with another, first three with two";
        assert_eq!(gguf.notes, [expected]);
    }
}

#[test]
fn getters_name_key_found_and_expected() {
    let gguf = Gguf::read(&sample(Writer::new())).unwrap();
    let cases = [
        (gguf.u32("none").unwrap_err(), "key none is missing"),
        (
            gguf.u32("a.u64").unwrap_err(),
            "key a.u64: found 1099511627776, expected an integer of 0 to 4294967295",
        ),
        (
            gguf.string("a.bool").unwrap_err(),
            "key a.bool: found true, expected a string",
        ),
        (
            gguf.u32_array("a.i32s").unwrap_err(),
            "key a.i32s: found an array of integers, expected an array of integers of 0 to 4294967295",
        ),
        (
            gguf.f32_array("a.f32").unwrap_err(),
            "key a.f32: found 0.0000009999999974752427, expected an array of numbers",
        ),
    ];
    for (error, expected) in cases {
        assert_eq!(error.to_string(), expected);
    }
}

/// Header bytes with `n_tensors` and `n_keys` as claimed, then `rest`.
fn header(n_tensors: u64, n_keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(n_tensors.to_le_bytes());
    bytes.extend(n_keys.to_le_bytes());
    bytes.extend(rest.concat());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A directory entry.
fn entry(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    for n in dims {
        bytes.extend(n.to_le_bytes());
    }
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len() + 64, 0); // some data
    bytes
}

#[test]
fn faults_are_named() {
    let one = |key: &str, value: &[u8]| header(0, 1, &[&text(key), value]);
    let tensor =
        |dims: &[u64], id: u32, offset: u64| header(1, 0, &[&entry("t", dims, id, offset)]);
    let u32_entry =
        |key: &str, v: u32| [text(key), vec![4, 0, 0, 0], v.to_le_bytes().into()].concat();
    let max = u64::MAX.to_le_bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "magic at 0: found 0 bytes, expected 4"),
        (b"GGU".to_vec(), "magic at 0"),
        (b"PK\x03\x04____".to_vec(), r#"starts with "PK\x03\x04""#),
        (b"GGUF\x01\0\0\0".to_vec(), "GGUF version 1"),
        (b"GGUF\x04\0\0\0".to_vec(), "GGUF version 4"),
        (b"GGUF\0\0\0\x03".to_vec(), "big-endian"),
        (
            header(u64::MAX, 0, &[]),
            "tensor count 18446744073709551615 exceeds",
        ),
        (
            header(0, u64::MAX, &[]),
            "key count 18446744073709551615 exceeds",
        ),
        (header(0, 65536, &[]), "key 0 of 65536"),
        (header(65536, 0, &[]), "tensor 0 of 65536"),
        (header(0, 1, &[&max]), "length 18446744073709551615 exceeds"),
        (one("k", &[13, 0, 0, 0]), "key k: value type 13"),
        (one("k", &[7, 0, 0, 0, 2]), "key k: bool 2"),
        (
            one("k", &[&[8, 0, 0, 0], &max[..]].concat()),
            "key k: string at 37: length",
        ),
        (
            one("k", &[9, 0, 0, 0, 9, 0, 0, 0]),
            "key k: an array of arrays",
        ),
        (
            one("k", &[&[9, 0, 0, 0, 4, 0, 0, 0], &max[..]].concat()),
            "array length 1844",
        ),
        (
            one("k", &[9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0]),
            "found 0 bytes",
        ),
        (
            one("general.alignment", &[4, 0, 0, 0, 24, 0, 0, 0]),
            "found 24, expected a power",
        ),
        (
            one("general.alignment", &[4, 0, 0, 0, 0, 0, 0, 0x80]),
            "from 8 to 1048576",
        ),
        (
            header(0, 2, &[&u32_entry("k", 1), &u32_entry("k", 2)]),
            "key k is there twice",
        ),
        (
            header(
                2,
                0,
                &[&entry("t", &[1], 0, 0)[..33], &entry("t", &[1], 0, 0)],
            ),
            "tensor t is there twice",
        ),
        (tensor(&[], 0, 0), "found 0 dimensions"),
        (tensor(&[1; 5], 0, 0), "found 5 dimensions"),
        (tensor(&[4, 0], 0, 0), "a dimension is 0"),
        (tensor(&[1 << 32, 1 << 32], 0, 0), "overflows"),
        (tensor(&[u64::MAX], 0, 0), "overflows"),
        (tensor(&[1, u64::MAX, u64::MAX, 2], 0, 0), "overflows"),
        (
            tensor(&[100, 2], 12, 0),
            "rows of 100 are no whole blocks of 256 of type Q4_K",
        ),
        (
            tensor(&[256], 40, 0),
            r#"tensor 0 of 1: "t": type 40 (NVFP4) is not supported"#,
        ),
        (tensor(&[256], 4711, 0), "type 4711 (unknown)"),
        (
            tensor(&[1], 0, 8),
            "offset 8 is no multiple of the alignment 32",
        ),
        (
            tensor(&[1 << 20], 0, 0),
            "tensor t: data ends at byte 4194368, but the file has",
        ),
        (tensor(&[1], 0, u64::MAX - 31), "overflow 64 bits"),
    ];
    for (bytes, expected) in cases {
        let error = Gguf::read(&MemFile::new("case", bytes)).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("case: "), "{message}");
        assert!(
            message.contains(expected),
            "found {message}, expected {expected}"
        );
    }
}

#[test]
fn metadata_memory_is_bounded() {
    // Arrays of empty strings take three times their bytes in memory.
    let n = 1u64 << 21;
    let mut array = [
        text("k0"),
        vec![9, 0, 0, 0, 8, 0, 0, 0],
        n.to_le_bytes().into(),
    ]
    .concat();
    array.resize(array.len() + 8 * n as usize, 0);
    let mut bytes = header(0, 2, &[]);
    for i in 0..2 {
        array[9] = b'0' + i;
        bytes.extend(&array);
    }
    let start = Instant::now();
    let error = Gguf::read(&MemFile::new("case", bytes)).unwrap_err();
    assert!(error.to_string().contains("metadata"), "{error}");
    assert!(start.elapsed().as_secs() < 1, "{:?}", start.elapsed());
}

#[test]
fn the_writer_refuses_what_would_be_no_file() {
    let mut w = Writer::new();
    assert!(w.tensor("t", &[100], Format::Q4K).is_err());
    assert!(w.tensor("t", &[u64::MAX], Format::F32).is_err());
    assert!(w.alias("t", &[1], Format::F32, "none").is_err());
    assert!(Writer::new().aligned(3).is_err());
    w.tensor("t", &[2], Format::F32).unwrap();
    assert!(w.alias("u", &[3], Format::F32, "t").is_err());
    let error = w.write(&mut Vec::new(), |_, sink| sink.put(&[0; 7]));
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "tensor t: 7 bytes written, expected 8");
}

#[test]
fn a_real_vocabulary_is_read_quickly() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/dsv4-vocab.gguf");
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return;
    }
    let file = File::open(&path).unwrap();
    let start = Instant::now();
    let gguf = Gguf::read(&file).unwrap();
    println!("257,021 strings in {:?}", start.elapsed());
    assert_eq!(
        gguf.string_array("tokenizer.ggml.tokens").unwrap().len(),
        129_280
    );
    assert_eq!(
        gguf.string_array("tokenizer.ggml.merges").unwrap().len(),
        127_741
    );
}
