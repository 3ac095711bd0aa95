//! `infall io-probe FILE` as a user meets it: every kind of read or the reason against it, input that is no file.
//! Speeds are never judged here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Temporary, infall, succeeded};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn probe(path: &Path, args: &[&str]) -> Value {
    let fixed = ["io-probe", path.to_str().unwrap(), "--json", "--seconds"];
    let output = infall(&[&fixed[..], args].concat());
    let said = succeeded(&output);
    assert!(
        said.contains(" kinds of reads, ") && said.contains("buffers take up to"),
        "{said}"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// (reads, order, size, depth) of every kind.
fn kinds(list: &Value) -> Vec<(String, String, u64, u64)> {
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let number = |v: &Value| v.as_u64().unwrap();
    let list = list.as_array().unwrap().iter();
    list.map(|c| {
        (
            text(&c["reads"]),
            text(&c["order"]),
            number(&c["size_bytes"]),
            number(&c["depth"]),
        )
    })
    .collect()
}

/// A file of `n` bytes.
fn file(name: &str, n: usize) -> Temporary {
    let file = Temporary::new(name);
    let bytes: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(&file.0, bytes).unwrap();
    file
}

#[test]
fn every_kind_of_read_is_measured_or_skipped_with_its_reason() {
    // Holds reads of 2.25 MiB but not the larger ones; no whole number of pages.
    let n_bytes = 5_000_003;
    let file = file("probe", n_bytes);
    let found = probe(&file.0, &["0.002"]);
    assert_eq!(found["file_bytes"], n_bytes);
    let (done, not_done) = (kinds(&found["measured"]), kinds(&found["skipped"]));
    let mut all = [done.clone(), not_done.clone()].concat();
    all.sort();
    let mut expected = Vec::new();
    for reads in ["buffered", "direct"] {
        for order in ["random", "sequential"] {
            for size in [64 << 10, 9 << 18, 27 << 18, 27 << 19] {
                expected.extend(
                    [1, 2, 4, 8, 16, 32]
                        .map(|depth| (reads.to_string(), order.to_string(), size, depth)),
                );
            }
        }
    }
    assert_eq!(all, expected);
    let direct_works = found["no_direct"].is_null();
    for (reads, _, size, _) in &done {
        assert!(*size <= 9 << 18 && (reads == "buffered" || direct_works));
    }
    for (cell, (reads, _, size, depth)) in
        found["skipped"].as_array().unwrap().iter().zip(&not_done)
    {
        let reason = cell["reason"].as_str().unwrap();
        if *size > 9 << 18 {
            assert_eq!(reason, "the file has 5000003 bytes only");
        } else if reads == "buffered" {
            // Two pieces of 2.25 MiB: four readers would find theirs in the page cache.
            assert!(*size == 9 << 18 && *depth > 2, "{cell}");
            assert_eq!(
                reason,
                "more than 2 at a time would read a piece twice, then from the page cache"
            );
        } else {
            assert!(
                reads == "direct" && reason.starts_with("direct reads are impossible: "),
                "{reason}"
            );
        }
    }
    for (cell, (reads, order, size, depth)) in
        found["measured"].as_array().unwrap().iter().zip(&done)
    {
        let number = |name: &str| cell[name].as_u64().unwrap();
        let n_reads = number("n_reads");
        assert!(
            n_reads >= *depth && number("bytes") == n_reads * size,
            "{cell}"
        );
        assert!(number("p50_ns") > 0 && number("p50_ns") <= number("p95_ns"));
        assert!(number("p95_ns") <= number("p99_ns") && number("p99_ns") <= number("time_ns"));
        let speed = number("bytes") as f64 / number("time_ns") as f64;
        let told = cell["gb_per_s"].as_f64().unwrap();
        assert!((told - speed).abs() <= speed * 1e-9, "{told} {speed}");
        if reads == "buffered" {
            // No piece of the file twice.
            assert!(n_reads <= n_bytes as u64 / size, "{order} {cell}");
        }
    }
    let depths = [1, 2, 4, 8, 16, 32];
    assert!(depths.contains(&found["readers"].as_u64().unwrap()));
    assert_eq!(found["memory_bytes"], 32 * (9 << 18));
}

#[test]
fn the_table_ends_with_an_advice() {
    let file = file("table", 70_000);
    let output = infall(&["io-probe", file.text(), "--seconds", "0.001"]);
    succeeded(&output);
    let out = String::from_utf8(output.stdout).unwrap();
    let (table, below) = out.split_once("\n\n").unwrap();
    let lines: Vec<&str> = table.lines().collect();
    // One piece: buffered reads by one thread only.
    assert!([2 + 12 + 2, 2 + 2].contains(&lines.len()), "{out}");
    assert!(
        lines
            .iter()
            .all(|line| line.chars().count() == lines[0].len()),
        "{out}"
    );
    assert!(
        below.contains("skipped: buffered, 2.25 MiB: the file has 70000 bytes only\n")
            && below.contains("skipped: buffered, 64.00 KiB: more than 1 at a time would "),
        "{out}"
    );
    let advice = below.lines().last().unwrap();
    let reads = if lines[2].starts_with("| direct") {
        "direct"
    } else {
        "buffered"
    };
    assert!(advice.starts_with("advice: --readers "), "{out}");
    assert!(
        advice.contains(&format!(
            ": 3 rounds of {reads} random reads of 64.00 KiB gave "
        )),
        "{out}"
    );
}

#[test]
fn a_file_system_in_memory_has_no_direct_reads() {
    let is_memory = Command::new("stat")
        .args(["-f", "-c", "%T", "/dev/shm"])
        .output();
    if !is_memory.is_ok_and(|o| o.stdout == b"tmpfs\n") {
        eprintln!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    let file = Temporary(format!("/dev/shm/infall-probe-{}", std::process::id()).into());
    std::fs::write(&file.0, vec![1; 200_000]).unwrap();
    let found = probe(&file.0, &["0.001"]);
    let why = "direct reads are impossible: tmpfs keeps its files in memory";
    assert_eq!(found["no_direct"], why);
    for cell in found["skipped"].as_array().unwrap() {
        if cell["reads"] == "direct" && cell["size_bytes"] == 64 << 10 {
            assert_eq!(cell["reason"], why);
        }
    }
    let measured = found["measured"].as_array().unwrap();
    // Three pieces of 64 KiB, in order and at random, by one thread and by two.
    assert_eq!(measured.len(), 2 * 2);
    for cell in measured {
        assert_eq!(cell["reads"], "buffered");
        // Its pages cannot leave memory, and the probe says so.
        let cached = &cell["cached_before_bytes"];
        assert!(cached.is_null() || cached == 200_000, "{cached}");
    }
    let output = infall(&["io-probe", file.text(), "--seconds", "0.001"]);
    succeeded(&output);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        out.contains(&format!("skipped: direct, 64.00 KiB: {why}\n")),
        "{out}"
    );
    assert!(
        out.contains("stayed in the page cache") || out.contains("unknown"),
        "{out}"
    );
}

#[test]
fn threads_that_are_refused_end_the_probe() {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: only Linux limits the memory that stacks of threads reserve");
        return;
    }
    let file = file("threads", 4 << 20);
    let mut is_told = false;
    // Somewhere between too little for the program and enough for all lies too little for all threads.
    for kib in (1..=40).map(|step| step * 10_000) {
        let line = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
        let mut probe = Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_infall")])
            .args(["io-probe", file.text(), "--seconds", "0.001"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while probe.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(60) {
                probe.kill().unwrap();
                panic!("no end with {kib} KiB");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = probe.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("starting reader ") {
            assert_eq!(output.status.code(), Some(1), "{said}");
            is_told = true;
        } else if is_told && output.status.success() {
            break;
        }
    }
    assert!(is_told, "no limit refused a thread");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let file = file("closed", 100_000);
    let mode = std::fs::Permissions::from_mode(0o0);
    std::fs::set_permissions(&file.0, mode).unwrap();
    if std::fs::File::open(&file.0).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    let output = infall(&["io-probe", file.text()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn what_cannot_be_probed_is_named() {
    let empty = file("empty", 0);
    let pipe = Temporary::new("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe.0)
            .status()
            .unwrap()
            .success()
    );
    let some = file("some", 10);
    let cases: &[(&[&str], &str, i32)] = &[
        (&[empty.text()], "found an empty file", 1),
        (&[pipe.text()], "found a pipe, expected a regular file", 1),
        (&["/"], "found a directory, expected a regular file", 1),
        (&["/nowhere/x"], "/nowhere/x: ", 1),
        (&[some.text(), "--seconds", "0"], "--seconds: found 0,", 2),
        (&[some.text(), "--seconds", "61"], "--seconds: found 61,", 2),
        (
            &[some.text(), "--seconds", "NaN"],
            "--seconds: found NaN,",
            2,
        ),
        (
            &[some.text(), "--readers", "3"],
            "--readers is given, expected no FILE with it",
            2,
        ),
        (&["--json"], "--json is given, expected a FILE with it", 2),
        (&[some.text(), "x"], "unexpected argument 'x'", 2),
    ];
    for (args, expected, code) in cases {
        let output = infall(&[&["io-probe"], *args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {said}");
        assert!(
            said.contains(expected) && output.stdout.is_empty(),
            "{args:?}: {said}"
        );
    }
    // Too short for any read: nothing to measure, and that is said.
    let output = infall(&["io-probe", some.text()]);
    succeeded(&output);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(
        out.contains("advice: none, as nothing could be measured"),
        "{out}"
    );
}
