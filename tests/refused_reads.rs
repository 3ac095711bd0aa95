//! A file system that opens files for direct reads and refuses the reads (FUSE, ecryptfs, some of the network), played by a
//! library that is loaded before the C library: each strategy goes on through the page cache, says so once, and `nommap`
//! keeps what it promises of the page cache.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Temporary, done, succeeded};
use infall::os::File;
use infall::os::meter::drop_cached;
use infall::supply::STRATEGIES;
use std::process::{Command, Output};

/// Direct reads of more than `INFALL_TEST_MOST` bytes end with EINVAL; none is allowed to tell its alignment.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

ssize_t pread64(int fd, void *buf, size_t n, off64_t offset) {
    ssize_t (*next)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    const char *most = getenv("INFALL_TEST_MOST");
    int flags = fcntl(fd, F_GETFL);
    if (flags != -1 && (flags & O_DIRECT) && n > (size_t)atol(most ? most : "0")) {
        errno = EINVAL;
        return -1;
    }
    return next(fd, buf, n, offset);
}

ssize_t pread(int fd, void *buf, size_t n, off_t offset) { return pread64(fd, buf, n, offset); }

int statx(int dir, const char *path, int flags, unsigned mask, struct statx *found) {
    errno = ENOSYS;
    return -1;
}
"#;

/// The library, if there is a C compiler.
fn shim() -> Option<Temporary> {
    let (source, library) = (Temporary::new("refusing.c"), Temporary::new("refusing.so"));
    std::fs::write(&source.0, SHIM).unwrap();
    let made = Command::new("cc")
        .args([
            "-shared",
            "-fPIC",
            "-o",
            library.text(),
            source.text(),
            "-ldl",
        ])
        .output();
    match made {
        Ok(output) => drop(succeeded(&output)),
        Err(error) => {
            eprintln!("skipped: cc: {error}");
            return None;
        }
    }
    Some(library)
}

/// Runs the program where direct reads of more than `most` bytes are refused.
fn refusing(shim: &Temporary, most: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_infall"))
        .args(args)
        .env("LD_PRELOAD", &shim.0)
        .env("INFALL_TEST_MOST", most)
        .output()
        .unwrap()
}

#[test]
fn refused_direct_reads_go_on_through_the_page_cache_which_stays_small() {
    let Some(shim) = shim() else { return };
    let model = Temporary::new("refused.gguf");
    let shape = [
        "synth",
        "--shape",
        "bench-q2",
        "--layers",
        "2",
        "--experts",
        "16",
    ];
    done(&[&shape[..], &["--quiet", "--out", model.text()]].concat());
    let run = |strategy, report| {
        let fixed = [
            "run",
            "-m",
            model.text(),
            "--raw",
            "--temp",
            "0",
            "-n",
            "8",
            "-p",
            "Hello",
        ];
        let more = [
            "--strategy",
            strategy,
            "--budget",
            "12",
            "--readers",
            "64",
            "--report",
            report,
        ];
        [&fixed[..], &more].concat()
    };
    let file = Temporary::new("refused.json");
    for strategy in STRATEGIES.iter().map(|s| s.name) {
        let expected = common::infall(&run(strategy, file.text()));
        succeeded(&expected);
        // Refused from the first read on, and only when the reads become large.
        let all = ["0", "65536"];
        for most in &all[..if strategy == "nommap" { 2 } else { 1 }] {
            let left = drop_cached(&File::open(&model.0).unwrap());
            let output = refusing(&shim, most, &run(strategy, file.text()));
            let said = succeeded(&output);
            assert_eq!(output.stdout, expected.stdout, "{strategy}");
            let note = "reads go through the page cache (a direct read: Invalid argument";
            assert_eq!(said.matches(note).count(), 1, "{strategy}, {most}: {said}");
            if left != Some(0) {
                println!("skipped: what of the file is cached is not known here");
                continue;
            }
            assert!(
                said.contains("what was read is dropped from it behind each read"),
                "{said}"
            );
            let report = std::fs::read(&file.0).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            let peak = report["peak_model_cached_bytes"].as_u64().unwrap();
            println!(
                "{strategy}, reads of more than {most} bytes refused: {peak} bytes cached at most"
            );
            assert!(strategy != "nommap" || peak <= 16 << 20, "{peak}");
        }
    }
}

#[test]
fn the_probe_of_a_disk_says_that_direct_reads_are_refused() {
    let Some(shim) = shim() else { return };
    let file = Temporary::new("refused-probe");
    std::fs::write(&file.0, vec![7; 300_000]).unwrap();
    let args = ["io-probe", file.text(), "--json", "--seconds", "0.001"];
    let output = refusing(&shim, "0", &args);
    succeeded(&output);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let why = found["no_direct"].as_str().unwrap();
    assert!(
        why.starts_with("direct reads are impossible: a direct read: Invalid argument"),
        "{why}"
    );
}
