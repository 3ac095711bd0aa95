//! Points of a session: kept in the middle of a sweep, taken over by other sessions, saved and restored. Whatever the way, a
//! session goes on from a point with the same bits as one that has read no more than that.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Folder, Loaded, golden, micro_ids};
use infall::backend::cpu::Cpu;
use infall::error::ErrorKind;
use infall::options::{KvFormat, Options};
use infall::session::store::{Beginning, Header, Store};
use infall::session::{self, Prefill, Session};
use infall::units::TokenId;

/// Before, at and behind borders of windows (4, 128) and of the ring (128).
const AT: [usize; 7] = [1, 3, 4, 127, 128, 131, 255];

fn load(kv: KvFormat) -> Loaded {
    let mut options = Options::new(golden("micro-q2.gguf"));
    (
        options.kv,
        options.ctx,
        options.threads,
        options.prefill_chunk,
    ) = (kv, 600, 2, 64);
    Loaded::open(&options).unwrap()
}

fn read(loaded: &mut Loaded, session: &mut Session<Cpu>, ids: &[TokenId]) {
    let done = session.prefill(&mut loaded.graph, ids, &mut |_| true);
    assert_eq!(done.unwrap(), Prefill::Done);
}

fn bits(session: &Session<Cpu>) -> Vec<u32> {
    session.logits().iter().map(|v| v.to_bits()).collect()
}

/// Logits behind the first `at` tokens and some that follow there.
fn expected(loaded: &mut Loaded, ids: &[TokenId], at: usize) -> Vec<u32> {
    let mut session = loaded.session();
    read(loaded, &mut session, &ids[..at]);
    goes_on(loaded, &mut session, ids)
}

fn goes_on(loaded: &mut Loaded, session: &mut Session<Cpu>, ids: &[TokenId]) -> Vec<u32> {
    // Others than those that followed, over a border of windows.
    let follow: Vec<TokenId> = ids[300..309].to_vec();
    read(loaded, session, &follow);
    session.decode(&mut loaded.graph, ids[3]).unwrap();
    bits(session)
}

#[test]
fn every_way_back_to_a_point_gives_the_bits_of_the_straight_way() {
    let ids = micro_ids();
    for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Official] {
        let (mut loaded, folder) = (load(kv), Folder::new("points"));
        let store = Store::open(folder.path("kv").as_path(), 1 << 30).unwrap();
        let straight: Vec<Vec<u32>> = AT
            .iter()
            .map(|at| expected(&mut loaded, &ids, *at))
            .collect();
        let mut long = loaded.session();
        long.mark(&AT);
        read(&mut loaded, &mut long, &ids[..290]);
        let points = long.take_marked();
        let lengths: Vec<usize> = points.iter().map(|point| point.len()).collect();
        assert_eq!(lengths, AT, "one sweep, {kv:?}");

        // In another session that held something else.
        let mut other = loaded.session();
        for (point, straight) in points.iter().zip(&straight) {
            read(&mut loaded, &mut other, &ids[310..370]);
            other.copy(&mut loaded.graph, &long, point).unwrap();
            assert_eq!(other.tokens(), &ids[..point.len()]);
            let found = goes_on(&mut loaded, &mut other, &ids);
            assert_eq!(&found, straight, "copied at {}, {kv:?}", point.len());
        }

        // From a file, at its end and at its points.
        let origin = session::origin(&mut loaded.graph, 1);
        let listed: Vec<_> = points
            .iter()
            .map(|point| (point, point.len() == 4))
            .collect();
        let header = long.header_with_points(origin.clone(), &listed);
        let saved = store.save(Some("x"), &header, &mut |out| {
            long.save(&mut loaded.graph, out)?;
            let mut points = points.iter();
            points.try_for_each(|point| long.save_point(&mut loaded.graph, point, out))
        });
        saved.unwrap();
        for (at, straight) in AT.iter().zip(&straight) {
            let mut from = store.read("x").unwrap();
            let restored = other.restore_with_points(&mut loaded.graph, &origin, &mut from);
            let restored = restored.unwrap();
            assert_eq!(bits(&other), bits(&long));
            let point = restored.iter().find(|point| point.len() == *at).unwrap();
            other.rewind(&mut loaded.graph, point).unwrap();
            let found = goes_on(&mut loaded, &mut other, &ids);
            assert_eq!(&found, straight, "restored at {at}, {kv:?}");
        }
        let header = store.read("x").unwrap();
        let shared: Vec<bool> = header.header().points.iter().map(|p| p.is_shared).collect();
        assert_eq!(shared, AT.map(|at| at == 4));
        // The longest place is found, and of a session without logits not the end itself.
        let found = |n: usize| {
            let found = store.prefixes(&origin, &ids[..n]).unwrap().found;
            let n_tokens = |beginning: &Beginning| beginning.n_tokens;
            found.first().map_or(0, n_tokens)
        };
        assert_eq!(
            [1, 2, 100, 131, 132, 289, 290].map(found),
            [0, 1, 4, 128, 131, 255, 290]
        );

        // The session itself is as it was.
        last_is_untouched(&mut loaded, &mut long, &points, &straight, &ids);
    }
}

fn last_is_untouched(
    loaded: &mut Loaded,
    long: &mut Session<Cpu>,
    points: &[infall::graph::kv::Checkpoint<Cpu>],
    straight: &[Vec<u32>],
    ids: &[TokenId],
) {
    for (point, straight) in points.iter().zip(straight).rev() {
        long.rewind(&mut loaded.graph, point).unwrap();
        assert_eq!(&goes_on(loaded, long, ids), straight, "rewound");
    }
}

#[test]
fn a_stopped_sweep_leaves_no_points_and_a_cleared_session_gives_none() {
    let (mut loaded, ids) = (load(KvFormat::F16), micro_ids());
    let mut session = loaded.session();
    read(&mut loaded, &mut session, &ids[..10]);
    session.mark(&[20, 90]);
    let mut calls = 0;
    let stop = session.prefill(&mut loaded.graph, &ids[10..200], &mut |_| {
        calls += 1;
        calls < 5
    });
    assert_eq!(stop.unwrap(), Prefill::Stopped);
    assert_eq!(
        (session.tokens().len(), session.take_marked().len()),
        (10, 0)
    );
    // Asked for once more, they are there; marks that were passed already are not.
    session.mark(&[5, 10, 20, 500]);
    read(&mut loaded, &mut session, &ids[10..60]);
    let points = session.take_marked();
    assert_eq!(points.iter().map(|p| p.len()).collect::<Vec<_>>(), [20]);
    session.clear();
    let mut other = loaded.session();
    let error = other
        .copy(&mut loaded.graph, &session, &points[0])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

/// A longer session takes the place of its own beginnings; names that the user gave, and others, stay.
#[test]
fn beginnings_of_a_saved_session_are_removed() {
    let (mut loaded, ids, folder) = (load(KvFormat::F16), micro_ids(), Folder::new("beginnings"));
    let store = Store::open(folder.path("kv").as_path(), 1 << 30).unwrap();
    let origin = session::origin(&mut loaded.graph, 1);
    let mut save = |name: Option<&str>, ids: &[TokenId]| {
        let mut session = loaded.session();
        read(&mut loaded, &mut session, ids);
        let header = session.header(origin.clone());
        let saved = store.save(name, &header, &mut |out| {
            session.save(&mut loaded.graph, out)
        });
        saved.unwrap()
    };
    let short = save(None, &ids[..20]);
    let other = save(None, &ids[5..40]);
    save(Some("mine"), &ids[..30]);
    let long = save(None, &ids[..50]);
    store.remove_beginnings(&origin, &ids[..50], &long).unwrap();
    let mut names: Vec<String> = store
        .list()
        .unwrap()
        .entries
        .into_iter()
        .map(|e| e.name)
        .collect();
    names.sort();
    let mut expected = vec![other.clone(), long.clone(), "mine".into()];
    expected.sort();
    assert_eq!(names, expected);
    assert!(!names.contains(&short));

    // What the next prompt needs does not make room, however old it is.
    let bytes = |name: &str| {
        let found = store.list().unwrap().entries;
        found.into_iter().find(|e| e.name == name).unwrap().bytes
    };
    let all: u64 = names.iter().map(|name| bytes(name)).sum();
    let tight = Store::open(folder.path("kv").as_path(), all).unwrap();
    let header = store.read(&long).unwrap().header().clone();
    let header = Header {
        n_tokens: 1,
        tokens_hash: 7,
        body_bytes: 0,
        ..header
    };
    let saved = tight.save_sparing(None, Some(&other), &header, &mut |_| Ok(()));
    saved.unwrap();
    assert!(tight.read(&other).is_ok());
    assert!(tight.read(&long).is_err());
}

/// 1,500 sessions: the headers are read once, and a search takes little more than to list the folder.
#[test]
fn a_search_among_many_sessions_reads_no_file_twice() {
    let (mut loaded, ids, folder) = (load(KvFormat::F16), micro_ids(), Folder::new("many"));
    let store = Store::open(folder.path("kv").as_path(), 1 << 40).unwrap();
    let origin = session::origin(&mut loaded.graph, 1);
    let mut session = loaded.session();
    read(&mut loaded, &mut session, &ids[..40]);
    let header = session.header(origin.clone());
    let name = store.save(None, &header, &mut |out| {
        session.save(&mut loaded.graph, out)
    });
    let name = name.unwrap();
    for i in 0..1499 {
        // Others, as far as their headers tell.
        let other = Header {
            n_tokens: 1 + i % 60,
            tokens_hash: i,
            body_bytes: 0,
            ..header.clone()
        };
        store.save(None, &other, &mut |_| Ok(())).unwrap();
    }
    let store = Store::open(folder.path("kv").as_path(), 1 << 40).unwrap();
    let search = || {
        let begin = std::time::Instant::now();
        let found = store.prefixes(&origin, &ids[..60]).unwrap().found;
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, [&name]);
        begin.elapsed()
    };
    let cold = search();
    let warm = (0..5).map(|_| search()).min().unwrap();
    println!("1,500 sessions: first search {cold:?}, then {warm:?}");
    assert!(5 * warm < cold, "{warm:?} of {cold:?}");
    // A file that changes is looked at again.
    let path = folder.path("kv").join(format!("{name}.session"));
    std::fs::write(&path, b"no session").unwrap();
    let found = store.prefixes(&origin, &ids[..60]).unwrap();
    assert_eq!((found.found.len(), found.notes.len()), (0, 1));
}
