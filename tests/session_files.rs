//! What a saved session promises: the same bits after it was restored, a file that is whole or not there, no damage
//! unseen, bounded memory and space.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Folder, Loaded, golden, micro_ids, tiny};
use infall::backend::cpu::Cpu;
use infall::error::{ErrorKind, Result};
use infall::options::{KvFormat, Options};
use infall::os::meter::{Process, cached_bytes, reset_peak};
use infall::os::{DirectFile, File};
use infall::rng::Rng;
use infall::session::file::{Header, Origin, Reader, TokensHash, Writer};
use infall::session::store::Store;
use infall::session::{self, Session};
use infall::supply::STRATEGIES;
use infall::units::TokenId;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const SPACE: u64 = 1 << 40;

fn store(folder: &Folder, space: u64) -> Store {
    Store::open(Path::new(folder.text()), space).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

fn load(model: &Path, strategy: &str, kv: KvFormat) -> Loaded {
    let mut options = Options::new(model);
    (options.strategy, options.kv) = (strategy.into(), kv);
    (options.ctx, options.threads, options.prefill_chunk) = (600, 1, 64);
    Loaded::open(&options).unwrap()
}

fn save(loaded: &mut Loaded, session: &Session<Cpu>, store: &Store, name: &str) {
    let header = session.header(session::origin(&mut loaded.graph, 1));
    let mut fill = |out: &mut Writer| session.save(&mut loaded.graph, out);
    store.save(Some(name), &header, &mut fill).unwrap();
}

/// Saves after some tokens, goes on with the next ones by prefill and decode, and does the same with another engine that
/// restored the file.
fn restored_goes_on_alike(model: &Path, ids: &[TokenId], strategy: &str, kv: KvFormat) {
    let folder = Folder::new("alike");
    let store = store(&folder, SPACE);
    let mut first = load(model, strategy, kv);
    let mut second = load(model, strategy, kv);
    let (mut straight, mut restored) = (first.session(), second.session());
    // What follows goes over the borders of compressed rows (4, 128), of their states (8) and of the ring (128). From the
    // second on the session that is restored holds something else.
    for at in [3, 121, 250] {
        let what = format!("{}, {strategy}, {kv:?}, {at} tokens", model.display());
        let done = straight.tokens().len();
        read(&mut first, &mut straight, &ids[done..at]);
        save(&mut first, &straight, &store, "x");
        let origin = session::origin(&mut second.graph, 1);
        let mut from = store.read("x").unwrap();
        restored
            .restore(&mut second.graph, &origin, &mut from)
            .unwrap();
        assert_eq!(restored.tokens(), straight.tokens(), "{what}");
        let same = |restored: &Session<Cpu>, straight: &Session<Cpu>| {
            assert_eq!(bits(restored.logits()), bits(straight.logits()), "{what}");
        };
        same(&restored, &straight);
        for (session, loaded) in [(&mut straight, &mut first), (&mut restored, &mut second)] {
            read(loaded, session, &ids[at..at + 9]);
        }
        same(&restored, &straight);
        for token in &ids[at + 9..at + 12] {
            straight.decode(&mut first.graph, *token).unwrap();
            restored.decode(&mut second.graph, *token).unwrap();
            same(&restored, &straight);
        }
    }
}

fn read(loaded: &mut Loaded, session: &mut Session<Cpu>, ids: &[TokenId]) {
    session
        .prefill(&mut loaded.graph, ids, &mut |_| true)
        .unwrap();
}

#[test]
fn a_restored_session_gives_the_same_bits_for_every_strategy_and_form() {
    let tiny_ids: Vec<TokenId> = (0..400).map(|i| TokenId(i * 7919 % 4096)).collect();
    for strategy in STRATEGIES.iter().map(|s| s.name) {
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Official] {
            restored_goes_on_alike(&golden("micro-q2.gguf"), &micro_ids(), strategy, kv);
        }
        // Its head shapes have no official form.
        for kv in [KvFormat::F32, KvFormat::F16] {
            restored_goes_on_alike(&tiny(), &tiny_ids, strategy, kv);
        }
    }
}

/// Only the rows of its tokens are in the file.
#[test]
fn a_file_grows_with_the_tokens_held() {
    let folder = Folder::new("grows");
    let store = store(&folder, SPACE);
    let mut loaded = load(&tiny(), "full", KvFormat::F16);
    let mut session = loaded.session();
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let ids = [TokenId(5); 8];
        session
            .prefill(&mut loaded.graph, &ids, &mut |_| true)
            .unwrap();
        sizes.push(
            session
                .header(session::origin(&mut loaded.graph, 1))
                .body_bytes,
        );
    }
    // By hand, f16 rows of 128 and 64, states f32 (see graph/tally.rs): 8 tokens more are 8 of their ids and raw rows of six
    // layers, 2 compressed rows in two layers (attention and indexer), none in the others, whose states take all 8; the
    // states of 4-token windows have been full since the first 8.
    let more = 8 * 4 + 6 * 8 * 256 + 2 * 2 * (256 + 128) + 2 * 8 * 256 * 4;
    for pair in sizes.windows(2) {
        assert_eq!(pair[1] - pair[0], more);
    }
    save(&mut loaded, &session, &store, "x");
    let length = std::fs::metadata(folder.path("x.session")).unwrap().len();
    assert!(length < sizes[3] + 3 * 16_384, "{length}");
}

#[test]
fn a_session_that_does_not_fit_is_refused_and_leaves_the_other_alone() {
    let folder = Folder::new("fit");
    let store = store(&folder, SPACE);
    let ids = micro_ids();
    let mut loaded = load(&golden("micro-q2.gguf"), "full", KvFormat::F16);
    let mut session = loaded.session();
    session
        .prefill(&mut loaded.graph, &ids[..50], &mut |_| true)
        .unwrap();
    save(&mut loaded, &session, &store, "x");
    let origin = session::origin(&mut loaded.graph, 1);
    let logits = bits(session.logits());
    let mut other = origin.clone();
    other.model_hash = 2;
    let mut form = load(&golden("micro-q2.gguf"), "full", KvFormat::F32);
    let form = session::origin(&mut form.graph, 1);
    for (origin, expected) in [
        (&other, "computed with model"),
        (&form, "KV form f16, expected f32"),
    ] {
        let mut from = store.read("x").unwrap();
        let error = session
            .restore(&mut loaded.graph, origin, &mut from)
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("x.session: "), "{error}");
        assert_eq!(bits(session.logits()), logits);
    }
    loaded.ctx = 49;
    let mut small = loaded.session();
    let error = small
        .restore(&mut loaded.graph, &origin, &mut store.read("x").unwrap())
        .unwrap_err();
    assert!(
        error.to_string().contains("50 tokens, expected at most 49"),
        "{error}"
    );
    // Damage behind the header comes to light on the way: nothing half is kept.
    let path = folder.path("x.session");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 40_000;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = session
        .restore(&mut loaded.graph, &origin, &mut store.read("x").unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("damaged: "), "{error}");
    assert!(session.tokens().is_empty() && session.logits().is_empty());
    session
        .prefill(&mut loaded.graph, &ids[..50], &mut |_| true)
        .unwrap();
    assert_eq!(bits(session.logits()), logits);
}

#[test]
fn nothing_of_a_session_stays_in_the_page_cache() {
    let folder = Folder::new("cache");
    let store = store(&folder, SPACE);
    save_body(&store, Some("x"), 7, 5 << 20).unwrap();
    let path = folder.path("x.session");
    if let Some(why) = DirectFile::open(&path).unwrap().refused_because() {
        println!("skipped: {why}");
        return;
    }
    let Some(cached) = cached_bytes(&File::open(&path).unwrap()) else {
        println!("skipped: the system does not tell what is cached");
        return;
    };
    assert_eq!(cached, 0, "after it was written");
    store.read("x").unwrap().verify().unwrap();
    assert_eq!(
        cached_bytes(&File::open(&path).unwrap()),
        Some(0),
        "after it was read"
    );
    // The question can be answered otherwise.
    std::fs::read(&path).unwrap();
    assert!(cached_bytes(&File::open(&path).unwrap()).unwrap() > 5 << 20);
}

fn origin() -> Origin {
    Origin {
        model_hash: 1,
        n_layer: 2,
        n_vocab: 3,
        kv: KvFormat::F16,
        arithmetic: "test".into(),
    }
}

/// Saves a made-up session of generation `n` with a body of `len` bytes that tell it.
fn save_body(store: &Store, name: Option<&str>, n: u64, len: u64) -> Result<String> {
    let header = Header {
        origin: origin(),
        n_tokens: n,
        tokens_hash: n,
        has_logits: true,
        body_bytes: len,
        points: Vec::new(),
    };
    store.save(name, &header, &mut |out| {
        let piece = [n as u8; 65_536];
        let mut left = len as usize;
        while left > 0 {
            let now = left.min(piece.len());
            out.write(&piece[..now])?;
            left -= now;
        }
        Ok(())
    })
}

/// The generation of a session, after every byte of it was looked at.
fn generation(store: &Store, name: &str) -> u64 {
    let mut reader: Reader = store.read(name).unwrap();
    let (n, mut left) = (
        reader.header().n_tokens,
        reader.header().body_bytes as usize,
    );
    let mut piece = vec![0; 65_536];
    while left > 0 {
        let now = left.min(piece.len());
        reader.read(&mut piece[..now]).unwrap();
        assert!(piece[..now].iter().all(|b| *b == n as u8), "generation {n}");
        left -= now;
    }
    n
}

fn length_of(n: u64) -> u64 {
    200_000 + n % 3 * 1_100_000
}

/// This program once more, for one of the tests below that are no tests of their own.
fn this_program(test: &str, folder: &Folder, first: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "--test-threads=1",
            test,
        ])
        .env("INFALL_TEST_FOLDER", folder.text())
        .env("INFALL_TEST_FIRST", first.to_string());
    command
}

fn told(name: &str) -> String {
    std::env::var(name).expect("only another test runs this one")
}

#[test]
#[ignore = "run, and killed, by another test"]
fn saves_without_end() {
    let store = Store::open(Path::new(&told("INFALL_TEST_FOLDER")), SPACE).unwrap();
    for n in told("INFALL_TEST_FIRST").parse().unwrap().. {
        save_body(&store, Some("x"), n, length_of(n)).unwrap();
        println!("\nsaved {n}");
    }
}

#[test]
fn a_save_that_is_killed_leaves_the_old_or_the_new_never_half() {
    let folder = Folder::new("killed");
    let store = store(&folder, SPACE);
    save_body(&store, Some("x"), 0, length_of(0)).unwrap();
    let seed = 11;
    let mut random = Rng::new(seed);
    let (mut at, mut n_cut) = (0, 0);
    for round in 0..200 {
        let mut child = this_program("saves_without_end", &folder, at + 1)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.next_u64() % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let mut saved = said
            .lines()
            .filter_map(|l| l.strip_prefix("saved ")?.parse().ok());
        let last: u64 = saved.next_back().unwrap_or(at);
        n_cut += usize::from(folder.names().len() > 1);
        // A later start: what was left is removed, and what stands is whole.
        assert_eq!(store.list().unwrap().entries.len(), 1);
        assert_eq!(folder.names(), ["x.session"], "seed {seed}, round {round}");
        let found = generation(&store, "x");
        assert!(
            (last..=last + 1).contains(&found),
            "seed {seed}, round {round}: found {found} after {last}"
        );
        at = found;
    }
    println!("{at} saves, {n_cut} of 200 kills in the middle of one");
    assert!(n_cut >= 20 && at >= 20, "{at} saves, {n_cut} kills in one");
}

#[test]
#[ignore = "run by another test"]
fn saves_and_reads_much() {
    let store = Store::open(Path::new(&told("INFALL_TEST_FOLDER")), SPACE).unwrap();
    if !reset_peak() {
        println!("\nskipped: the system's peak cannot begin again");
        return;
    }
    let before = Process::now().rss_bytes.unwrap();
    save_body(&store, Some("x"), 3, 100 << 20).unwrap();
    assert_eq!(generation(&store, "x"), 3);
    store.read("x").unwrap().verify().unwrap();
    let peak = Process::now().peak_rss_bytes.unwrap();
    println!("\ntook {}", peak.saturating_sub(before));
}

#[test]
fn saving_and_restoring_take_a_block_of_memory() {
    let folder = Folder::new("much");
    let output = this_program("saves_and_reads_much", &folder, 0)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    if let Some(why) = said.lines().find(|l| l.starts_with("skipped")) {
        println!("{why}");
        return;
    }
    let took = said
        .lines()
        .find_map(|l| l.strip_prefix("took ")?.parse().ok());
    let took: u64 = took.unwrap();
    println!("{took} bytes for a session of 100 MiB");
    assert!(took < 4 << 20, "{took}");
}

fn entries(store: &Store) -> Vec<String> {
    let entries = store.list().unwrap().entries;
    entries.into_iter().map(|e| e.name).collect()
}

#[test]
fn what_was_used_longest_ago_goes_and_names_stay() {
    let folder = Folder::new("lru");
    let len = 100_000;
    save_body(&store(&folder, SPACE), Some("mine"), 99, len).unwrap();
    let file = std::fs::metadata(folder.path("mine.session"))
        .unwrap()
        .len();
    let store = store(&folder, 4 * file + 100);
    let mut autos: Vec<String> = Vec::new();
    // Times that no clock is too coarse for; the named one is older than all.
    let begin = SystemTime::now() - Duration::from_secs(1000);
    let used = |name: &str, at: u64| {
        let file = std::fs::File::open(folder.path(&format!("{name}.session"))).unwrap();
        file.set_modified(begin + Duration::from_secs(at)).unwrap();
    };
    used("mine", 0);
    for n in 1..=3 {
        autos.push(save_body(&store, None, n, len).unwrap());
        used(&autos[n as usize - 1], n);
    }
    assert!(autos.iter().all(|name| name.starts_with("auto-")));
    assert_eq!(entries(&store), [&autos[2], &autos[1], &autos[0], "mine"]);
    // The same content has the same name and needs no room.
    assert_eq!(save_body(&store, None, 3, len).unwrap(), autos[2]);
    assert_eq!(folder.names().len(), 4);
    // The first was used again, so the second goes.
    store.touch(&autos[0]);
    let fourth = save_body(&store, None, 4, len).unwrap();
    let mut left = entries(&store);
    left.sort();
    let mut expected = vec![autos[0].clone(), autos[2].clone(), fourth, "mine".into()];
    expected.sort();
    assert_eq!(left, expected);
    // One that needs the space of all others: only names stay, and what cannot fit harms nobody.
    save_body(&store, None, 5, 3 * len).unwrap();
    assert_eq!(entries(&store).len(), 2);
    let before = folder.names();
    let error = save_body(&store, Some("big"), 6, 4 * len).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    let message = error.to_string();
    assert!(
        message.contains("does not fit into the ") && message.contains("with a name take"),
        "{message}"
    );
    assert_eq!(folder.names(), before);
    // Replacing one of the same size needs no other's place.
    save_body(&store, Some("mine"), 7, len).unwrap();
    assert_eq!((entries(&store).len(), generation(&store, "mine")), (2, 7));
}

#[test]
fn a_folder_of_anything_is_told_and_left_alone() {
    let folder = Folder::new("hostile");
    let store = store(&folder, SPACE);
    save_body(&store, Some("good"), 1, 1000).unwrap();
    let whole = std::fs::read(folder.path("good.session")).unwrap();
    folder.write("notes.txt", "mine");
    folder.write("empty.session", "");
    folder.write("text.session", "x".repeat(20_000));
    folder.write("cut.session", &whole[..whole.len() - 1]);
    folder.write("-x.session", &whole);
    folder.write("bad name.session", &whole);
    folder.write(&format!("{}.session", "n".repeat(65)), &whole);
    std::fs::create_dir(folder.path("folder.session")).unwrap();
    std::os::unix::fs::symlink(folder.path("good.session"), folder.path("link.session")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", folder.path("gone.session")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff.session");
    std::fs::write(Path::new(folder.text()).join(odd), &whole).unwrap();
    let n = std::fs::read_dir(folder.text()).unwrap().count();

    let listing = store.list().unwrap();
    let mut names: Vec<_> = listing.entries.into_iter().map(|e| e.name).collect();
    names.sort();
    assert_eq!(names, ["cut", "empty", "good", "text"]);
    assert_eq!(listing.notes.len(), 8, "{:?}", listing.notes);
    for (name, why) in [
        ("notes.txt", "does not end with .session"),
        ("-x.session", "expected up to 64 letters"),
        ("folder.session", "no regular file"),
        ("link.session", "no regular file"),
        ("\u{fffd}.session", "its name is no text"),
    ] {
        let is_told = |note: &&String| note.contains(name) && note.contains(why);
        assert_eq!(listing.notes.iter().filter(is_told).count(), 1, "{name}");
    }
    for (name, why) in [
        ("empty", "found 0 bytes"),
        ("text", "its first bytes are others"),
        ("cut", "cut or grown"),
        ("link", "no regular file"),
        ("folder", "no regular file"),
        ("none", "holds no session 'none'"),
        ("../good", "expected up to 64 letters"),
    ] {
        let error = store.read(name).map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    // Sessions that cannot be read are notes of a search, and nothing was touched by all this.
    let found = store.prefixes(&origin(), &[TokenId(1)]).unwrap();
    assert_eq!((found.found.len(), found.notes.len()), (0, 8 + 3));
    assert_eq!(std::fs::read_dir(folder.text()).unwrap().count(), n);
    // A user's names are names, and not the program's.
    for name in ["", ".x", "a/b", "auto-1", "ä"] {
        let error = save_body(&store, Some(name), 1, 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
    }
    assert_eq!(store.remove_all().unwrap(), 4);
    assert_eq!(std::fs::read_dir(folder.text()).unwrap().count(), n - 4);
    // A file is no folder, and a missing folder holds nothing.
    let file = folder.path("notes.txt");
    assert!(
        Store::open(&file, 1)
            .unwrap_err()
            .to_string()
            .contains("expected a folder")
    );
    let missing = Store::open(&folder.path("missing"), 1).unwrap();
    assert!(missing.list().unwrap().entries.is_empty());
}

#[test]
fn the_longest_stored_beginning_is_found() {
    let folder = Folder::new("prefix");
    let store = store(&folder, SPACE);
    let ids: Vec<TokenId> = (0..100).map(|i| TokenId(i * 31 % 97)).collect();
    let put = |name: &str, tokens: &[TokenId], origin: Origin, has_logits: bool| {
        let header = Header {
            origin,
            n_tokens: tokens.len() as u64,
            tokens_hash: TokensHash::of(tokens).0,
            has_logits,
            body_bytes: 0,
            points: Vec::new(),
        };
        store.save(Some(name), &header, &mut |_| Ok(())).unwrap();
    };
    put("ten", &ids[..10], origin(), true);
    put("forty", &ids[..40], origin(), true);
    put("fifty-others", &ids[50..], origin(), true);
    put("sixty-without-logits", &ids[..60], origin(), false);
    put("nothing", &[], origin(), true);
    let mut foreign = origin();
    foreign.model_hash = 5;
    put("seventy-foreign", &ids[..70], foreign, true);
    let found = |n: usize| {
        let found = store.prefixes(&origin(), &ids[..n]).unwrap();
        let names: Vec<_> = found.found.into_iter().map(|e| e.name).collect();
        (names.join(" "), found.notes.len())
    };
    assert_eq!(found(9), (String::new(), 0));
    assert_eq!(found(10), ("ten".into(), 0));
    assert_eq!(found(59), ("forty ten".into(), 0));
    // Without logits a session is only good for what goes on behind it.
    assert_eq!(found(60), ("forty ten".into(), 0));
    assert_eq!(found(61), ("sixty-without-logits forty ten".into(), 0));
    assert_eq!(found(100), ("sixty-without-logits forty ten".into(), 1));
}
