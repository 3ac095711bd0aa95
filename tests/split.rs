//! Models in several files: the same bits and the same reads as the whole file, the same care, and every wrong set named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::parts::{Place, Whole, part_name, write};
use common::{Folder, Loaded, Temporary, done, golden, infall, likeliest, tiny};
use infall::engine::Prepared;
use infall::gguf;
use infall::options::{Budget, Options};
use infall::os::File;
use infall::os::meter::{cached_bytes, drop_cached};
use infall::supply::{STRATEGIES, Stats};
use infall::units::TokenId;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A model as it lies on the disk, removed with this value.
struct Laid {
    what: &'static str,
    files: Vec<PathBuf>,
    _folder: Folder,
}

impl Laid {
    fn whole(model: &Path) -> Laid {
        let folder = Folder::new("whole");
        let path = folder.path("model.gguf");
        std::fs::copy(model, &path).unwrap();
        Laid {
            what: "whole",
            files: vec![path],
            _folder: folder,
        }
    }

    /// In three parts, of which the first has no tensors with `is_first_empty`.
    fn parts(model: &Path, is_first_empty: bool, place: Place) -> Laid {
        let bytes = std::fs::read(model).unwrap();
        let whole = Whole::read(&bytes);
        let n = whole.n_tensors();
        let (first, what) = match is_first_empty {
            true => (0, "first part empty"),
            false => (n / 3, "three parts"),
        };
        let folder = Folder::new("parts");
        let files = write(&folder, &whole.split(&[first, n * 2 / 3, n], place));
        Laid {
            what,
            files,
            _folder: folder,
        }
    }

    /// The three of one model.
    fn all(model: &Path) -> [Laid; 3] {
        [
            Laid::whole(model),
            Laid::parts(model, false, Place::SamePages),
            Laid::parts(model, true, Place::SamePages),
        ]
    }

    fn path(&self) -> &Path {
        &self.files[0]
    }
}

fn options(path: &Path, strategy: &str) -> Options {
    let mut options = Options::new(path);
    (options.ctx, options.prefill_chunk, options.threads) = (200, 32, 2);
    options.strategy = strategy.into();
    options.supply.budget = Budget::Experts(48);
    // What is read ahead in vain depends on the clock.
    options.supply.read_ahead = false;
    options
}

/// Tokens and a hash over the bits of their logits, and what was read.
fn run(path: &Path, strategy: &str) -> (Vec<TokenId>, u64, Stats) {
    let mut loaded = Loaded::open(&options(path, strategy)).unwrap();
    let mut session = loaded.session();
    let prompt: Vec<TokenId> = (0..40).map(|i| TokenId((i * 37 + 11) % 4000)).collect();
    session
        .prefill(&mut loaded.graph, &prompt, &mut |_| true)
        .unwrap();
    let (mut tokens, mut hash) = (Vec::new(), 0xcbf2_9ce4_8422_2325u64);
    for _ in 0..12 {
        for value in session.logits() {
            hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3);
        }
        tokens.push(likeliest(session.logits()));
        session
            .decode(&mut loaded.graph, *tokens.last().unwrap())
            .unwrap();
    }
    let stats = Stats {
        stall_ns: 0,
        read_ns: 0,
        ..loaded.graph.supply_stats()
    };
    (tokens, hash, stats)
}

#[test]
fn parts_give_the_bits_and_the_reads_of_the_whole_file() {
    let laid = Laid::all(&tiny());
    let (tokens, hash, _) = run(laid[0].path(), "full");
    for strategy in STRATEGIES.iter().map(|s| s.name) {
        let mut expected = None;
        for model in &laid {
            let (t, h, stats) = run(model.path(), strategy);
            let what = format!("{strategy}, {}", model.what);
            assert_eq!((&t, h), (&tokens, hash), "{what}");
            assert_eq!(*expected.get_or_insert(stats), stats, "{what}");
            println!("{what}: hash {h:016x}, {stats:?}");
        }
        assert_eq!(strategy == "full", expected.unwrap().experts_read == 0);
    }
    // Packed as llama.cpp packs them; windows of whole pages may then be a page longer or shorter.
    for is_first_empty in [false, true] {
        let packed = Laid::parts(&tiny(), is_first_empty, Place::Packed);
        let (t, h, _) = run(packed.path(), "full");
        assert_eq!((&t, h), (&tokens, hash));
    }
}

#[test]
fn the_path_of_any_part_opens_the_set() {
    let laid = Laid::parts(&tiny(), true, Place::Packed);
    let read = |path: &Path| {
        let (files, gguf) = gguf::open(path).unwrap();
        assert_eq!(files.files().len(), 3);
        (gguf.name, gguf.tensors, gguf.parts, gguf.file_len)
    };
    let expected = read(&laid.files[0]);
    assert_eq!(expected.0, laid.files[0].to_str().unwrap());
    for path in &laid.files[1..] {
        assert_eq!(read(path), expected);
    }
    let whole = gguf::open(&tiny()).unwrap().1;
    assert_eq!(whole.tensors.len(), expected.1.len());
    let len = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    assert_eq!(expected.3, laid.files.iter().map(len).sum::<u64>());

    let last = laid.files[2].to_str().unwrap();
    let answer = |model: &str| {
        let args = [
            "run",
            "-m",
            model,
            "--temp",
            "0",
            "-n",
            "16",
            "-p",
            "What is Unix?",
        ];
        let output = infall(&args);
        common::succeeded(&output);
        output.stdout
    };
    assert_eq!(answer(last), answer(tiny().to_str().unwrap()));
    // No part is taken for a file to write.
    let first = laid.path().to_str().unwrap();
    let output = infall(&["run", "-m", first, "--trace-routes", last, "-p", "x"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && said.contains("the model itself"),
        "{said}"
    );
    assert_eq!(read(&laid.files[1]), expected);
}

fn report(laid: &Laid, strategy: &str) -> serde_json::Value {
    let file = Temporary::new("split-report.json");
    let model = laid.path().to_str().unwrap();
    let fixed = [
        "run", "-m", model, "--raw", "--temp", "0", "-n", "24", "-p", "Hello",
    ];
    let more = [
        "--budget",
        "60",
        "--strategy",
        strategy,
        "--report",
        file.text(),
    ];
    done(&[&fixed[..], &more].concat());
    serde_json::from_slice(&std::fs::read(&file.0).unwrap()).unwrap()
}

/// The figure of the page cache is that of all parts, and nommap leaves next to nothing in any.
#[test]
fn the_page_cache_of_all_parts_is_counted_and_bounded() {
    for laid in &Laid::all(&tiny())[1..] {
        for strategy in STRATEGIES.iter().map(|s| s.name) {
            let files = laid.files.iter().map(|f| File::open(f).unwrap());
            let files: Vec<File> = files.collect();
            let left: Option<u64> = files.iter().map(drop_cached).sum();
            let report = report(laid, strategy);
            let peak = report["peak_model_cached_bytes"].as_u64();
            let (Some(0), Some(peak)) = (left, peak) else {
                return println!("skipped: what of a file is cached is not known here");
            };
            let now: u64 = files.iter().map(|f| cached_bytes(f).unwrap()).sum();
            let what = format!("{strategy}, {}: peak {peak}, at the end {now}", laid.what);
            println!("{what}");
            match strategy {
                "nommap" => assert!(peak <= 16 << 20 && now <= 16 << 20, "{what}"),
                // All experts are mapped: in this model 20 MiB, in two parts.
                "full" => assert!(peak > 18 << 20, "{what}"),
                _ => {}
            }
        }
    }
}

/// Each part is watched, by each strategy.
#[test]
fn a_part_that_changes_is_an_error_that_names_it() {
    for strategy in STRATEGIES.iter().map(|s| s.name) {
        for changed in 0..3 {
            let laid = Laid::parts(&tiny(), true, Place::Packed);
            let mut loaded = Loaded::open(&options(laid.path(), strategy)).unwrap();
            let mut session = loaded.session();
            let graph = &mut loaded.graph;
            session
                .prefill(graph, &[TokenId(7)], &mut |_| true)
                .unwrap();
            session.decode(graph, TokenId(9)).unwrap();
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&laid.files[changed]);
            file.unwrap().write_all_at(b"x", 100).unwrap();
            let error = session.decode(graph, TokenId(10)).unwrap_err().to_string();
            assert!(
                error.contains("changed while it is in use")
                    && error.contains(&part_name(changed, 3)),
                "{strategy}: {error}"
            );
        }
    }
}

#[test]
fn sessions_know_the_model_by_all_of_its_parts() {
    let laid = Laid::parts(&golden("micro-q2.gguf"), true, Place::Packed);
    let hash = |path: &Path| {
        Prepared::new(Options::new(path))
            .unwrap()
            .model_hash()
            .unwrap()
    };
    let expected = hash(&laid.files[0]);
    assert_eq!(hash(&laid.files[2]), expected);
    let gguf = gguf::open(laid.path()).unwrap().1;
    for (file, part) in laid.files.iter().zip(&gguf.parts).skip(1) {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(file)
            .unwrap();
        let at = part.data_start - part.start + 5;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
        assert_ne!(hash(laid.path()), expected, "{}", part.name);
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(hash(laid.path()), expected);
}

/// What makes a set wrong.
enum Change {
    Put(usize, Vec<u8>),
    Remove(&'static [usize]),
    Rename(usize, &'static str),
    Swap(usize, usize),
}

/// A wrong set: what is done to the files of a right one, which is opened, and what must be said.
#[test]
fn every_wrong_set_is_named() {
    let bytes = std::fs::read(golden("micro-q2.gguf")).unwrap();
    let whole = Whole::read(&bytes);
    let n = whole.n_tensors();
    let right = whole.split(&[0, n / 2, n], Place::Packed);
    let other = whole.split(&[0, n / 3, n], Place::Packed);
    let longer = whole.split(&[0, n / 4, n / 2, n], Place::Packed);
    let names: Vec<String> = (0..3).map(|i| part_name(i, 3)).collect();
    let value = |part: &[u8], key: &str| {
        let at = part.windows(key.len()).position(|w| w == key.as_bytes());
        at.unwrap() + key.len() + 4
    };
    let with = |part: usize, key: &str, new: &[u8]| {
        let mut bytes = right[part].clone();
        let at = value(&bytes, key);
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let cut = |part: usize, len: usize| right[part][..len].to_vec();
    let cases: Vec<(&str, Change, &str, Vec<&str>)> = vec![
        (
            "missing",
            Change::Remove(&[1]),
            &names[0],
            vec![
                "1 of 3 parts of the split model is missing, wanted first: ",
                &names[1],
            ],
        ),
        (
            "two missing",
            Change::Remove(&[1, 2]),
            &names[0],
            vec!["2 of 3 parts of the split model are missing", &names[1]],
        ),
        (
            "first missing",
            Change::Remove(&[0]),
            &names[2],
            vec!["part 1 of 3", "metadata", &names[0]],
        ),
        (
            "doubled",
            Change::Put(2, right[1].clone()),
            &names[0],
            vec![&names[2], "split.no: found 1, expected 2"],
        ),
        (
            "swapped",
            Change::Swap(1, 2),
            &names[1],
            vec![&names[1], "named part 2 of 3, but its keys say part 3 of 3"],
        ),
        (
            "cut in its data",
            Change::Put(2, cut(2, right[2].len() - 100)),
            &names[0],
            vec![&names[2], "data ends at byte", "cut off"],
        ),
        (
            "cut in its header",
            Change::Put(1, cut(1, 200)),
            &names[0],
            vec![&names[1], "expected"],
        ),
        (
            "empty",
            Change::Put(1, Vec::new()),
            &names[0],
            vec![&names[1], "magic"],
        ),
        (
            "another cut of the model",
            Change::Put(1, other[1].clone()),
            &names[0],
            vec![&names[0], "tensors in 3 parts, expected"],
        ),
        (
            "two of one tensor",
            Change::Put(2, other[2].clone()),
            &names[0],
            vec!["tensor ", " is in ", &names[1], &names[2]],
        ),
        (
            "of a set of four",
            Change::Put(1, longer[1].clone()),
            &names[0],
            vec![&names[1], "split.count: found 4, expected 3"],
        ),
        (
            "a whole model",
            Change::Put(1, bytes.clone()),
            &names[0],
            vec![&names[1], "split.count is missing, expected 3"],
        ),
        (
            "no model",
            Change::Put(1, b"<html>".to_vec()),
            &names[0],
            vec![&names[1], "not a GGUF file"],
        ),
        (
            "lying number of tensors",
            Change::Put(2, with(2, "split.tensors.count", &9i32.to_le_bytes())),
            &names[0],
            vec![&names[2], "split.tensors.count: found 9"],
        ),
        (
            "negative number",
            Change::Put(2, with(2, "split.tensors.count", &(-1i32).to_le_bytes())),
            &names[0],
            vec![&names[2], "split.tensors.count"],
        ),
        (
            "lying count",
            Change::Put(0, with(0, "split.count", &7u16.to_le_bytes())),
            &names[0],
            vec![&names[0], "named part 1 of 3, but its keys say part 1 of 7"],
        ),
        (
            "too many",
            Change::Put(0, with(0, "split.count", &65_535u16.to_le_bytes())),
            &names[0],
            vec![&names[0], "split.count 65535 exceeds the limit"],
        ),
        (
            "part above the count",
            Change::Put(1, with(1, "split.no", &3u16.to_le_bytes())),
            &names[0],
            vec![&names[1], "split.no: found 3, expected 0 to 2"],
        ),
        (
            "renamed",
            Change::Rename(0, "other.gguf"),
            "other.gguf",
            vec!["other.gguf", "part 1 of 3", "-00001-of-00003.gguf"],
        ),
        (
            "piece of a file cut by bytes",
            Change::Put(0, bytes[..bytes.len() / 3].to_vec()),
            &names[0],
            vec![&names[0], "named part 1 of 3", "cut off"],
        ),
    ];
    for (what, change, path, expected) in cases {
        let folder = Folder::new("wrong");
        write(&folder, &right);
        gguf::open(&folder.path(&names[1])).unwrap();
        let of = |i: usize| folder.path(&names[i]);
        match change {
            Change::Put(i, bytes) => folder.write(&names[i], bytes),
            Change::Remove(which) => which
                .iter()
                .for_each(|i| std::fs::remove_file(of(*i)).unwrap()),
            Change::Rename(i, to) => std::fs::rename(of(i), folder.path(to)).unwrap(),
            Change::Swap(a, b) => {
                folder.write(&names[a], &right[b]);
                folder.write(&names[b], &right[a]);
            }
        }
        let path = folder.path(path);
        let error = gguf::open(&path).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{what}: {error}");
        }
        let output = infall(&["run", "-m", path.to_str().unwrap(), "-p", "x", "-n", "1"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(&error), "{what}: {said}");
    }
}

/// Other metadata in a later part is that of another model.
#[test]
fn metadata_of_a_later_part_must_be_that_of_the_first() {
    let bytes = std::fs::read(golden("micro-q2.gguf")).unwrap();
    let mut whole = Whole::read(&bytes);
    let n = whole.n_tensors();
    let folder = Folder::new("metadata");
    for (text, is_right) in [("deepseek4", true), ("llama", false)] {
        whole.extra = Some(("general.architecture", text));
        write(&folder, &whole.split(&[n / 2, n], Place::Packed));
        let opened = gguf::open(&folder.path(&part_name(0, 2)));
        assert_eq!(opened.is_ok(), is_right, "{text}");
        if let Err(error) = opened {
            let told = r#"key general.architecture: found "llama", expected "deepseek4" as in "#;
            let error = error.to_string();
            assert!(
                error.contains(&part_name(1, 2)) && error.contains(told),
                "{error}"
            );
        }
    }
}

#[test]
fn a_whole_file_named_like_a_part_is_read_and_that_is_told() {
    let folder = Folder::new("named");
    let path = folder.path(&part_name(0, 4));
    std::fs::copy(tiny(), &path).unwrap();
    let said = done(&["run", "-m", path.to_str().unwrap(), "-n", "1", "-p", "x"]);
    let note = "named part 1 of 4, but without the key split.count: read as a whole file";
    assert!(said.contains(note), "{said}");
}

/// What a user has who began with the first part, 5 MB of metadata: which file to get next.
#[test]
fn inspect_of_a_first_part_alone_says_what_is_wanted() {
    let bytes = std::fs::read(tiny()).unwrap();
    let whole = Whole::read(&bytes);
    let n = whole.n_tensors();
    let parts = whole.split(&[0, n / 2, n], Place::Packed);
    let folder = Folder::new("alone");
    folder.write(&part_name(0, 3), &parts[0]);
    let path = folder.path(&part_name(0, 3));
    let output = infall(&["inspect", path.to_str().unwrap()]);
    let (out, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        out.contains("general.architecture") && out.contains("part 2:    missing"),
        "{out}"
    );
    let all = format!("{out}{said}");
    assert!(
        all.contains("2 of 3 parts of the split model are missing, wanted first: "),
        "{all}"
    );
    assert!(
        all.contains(folder.path(&part_name(1, 3)).to_str().unwrap()),
        "{all}"
    );
    // The vocabulary is in the first part.
    done(&["tokenize", "-m", path.to_str().unwrap(), "Hello"]);

    write(&folder, &parts);
    let output = infall(&["inspect", "--tensors", path.to_str().unwrap()]);
    common::succeeded(&output);
    let out = String::from_utf8_lossy(&output.stdout);
    for (i, part) in parts.iter().enumerate() {
        let line = out
            .lines()
            .find(|l| l.contains(&format!("part {}:", i + 1)));
        let size = format!("{:.2} MiB", part.len() as f64 / (1 << 20) as f64);
        let small = part.len() < 1 << 20;
        assert!(
            line.is_some_and(|l| l.contains(&part_name(i, 3)) && (small || l.contains(&size))),
            "{out}"
        );
    }
    let tensor = out.lines().find(|l| l.contains("output.weight")).unwrap();
    assert!(tensor.contains(" in part "), "{tensor}");
}
