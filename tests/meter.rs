//! The meter against things whose size is known: memory taken, files read, peaks made.
//!
//! A test that this system cannot run says SKIPPED and why (`--nocapture` shows it).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use infall::error::ErrorKind;
use infall::os::meter::{
    Process, Sampler, System, cached_bytes, cached_bytes_in, drop_cached, reset_peak,
    simulate_used_memory,
};
use infall::os::{AlignedBuf, DirectFile, File, FileSet, Map, ReadAt};
use infall::units::Extent;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Memory that the tests take, and how far the figures may be off: other threads and the system's own buffers.
const TAKEN: u64 = 64 * MIB;
const SLACK: u64 = 8 * MIB;

/// Figures are of the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken(bytes: u64) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes as usize).unwrap();
    buf.as_mut_slice().fill(1);
    buf
}

/// A file in the build folder, which lies on a disk more often than the temporary folder does.
struct OnDisk(PathBuf);

/// Not a multiple of a page.
const FILE_LEN: usize = (24 << 20) + 1234;

impl OnDisk {
    fn new(name: &str) -> OnDisk {
        let name = format!("meter-{}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, vec![7; FILE_LEN]).unwrap();
        OnDisk(path)
    }

    /// The file, out of the cache; `None`, with a word on why, where that cannot be.
    fn dropped(&self) -> Option<File> {
        let file = File::open(&self.0).unwrap();
        match drop_cached(&file) {
            Some(0) => Some(file),
            None => skip("the system does not say what is cached"),
            Some(left) if lives_in_memory(&self.0) || cfg!(target_os = "macos") => {
                skip(&format!("{left} bytes stay cached on this file system"))
            }
            Some(left) => panic!("{left} of {FILE_LEN} bytes stay cached"),
        }
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn skip<T>(why: &str) -> Option<T> {
    println!("SKIPPED: {why}");
    None
}

fn lives_in_memory(path: &Path) -> bool {
    let found = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(path)
        .output();
    found.is_ok_and(|o| matches!(o.stdout.trim_ascii(), b"tmpfs" | b"ramfs"))
}

fn read_all(file: &dyn ReadAt) {
    let mut buf = AlignedBuf::zeroed(1 << 20).unwrap();
    let step = buf.as_slice().len();
    for at in (0..FILE_LEN).step_by(step) {
        let need = step.min(FILE_LEN - at);
        file.read_window(at as u64, buf.as_mut_slice(), need)
            .unwrap();
        assert!(buf.as_slice()[..need].iter().all(|b| *b == 7));
    }
}

#[track_caller]
fn assert_about(what: &str, found: u64, expected: u64) {
    let off = found.abs_diff(expected);
    assert!(
        off <= SLACK,
        "{what}: found {found}, expected about {expected}"
    );
}

/// The whole file came from storage between the two.
#[track_caller]
fn assert_read_from_storage(before: Process, after: Process) {
    let read = before.storage_read_bytes.zip(after.storage_read_bytes);
    match read.map(|(before, after)| after - before) {
        Some(bytes @ 1..) => assert_about("read from storage", bytes, FILE_LEN as u64),
        _ => println!("SKIPPED: this file system does not count what it reads"),
    }
}

#[test]
fn memory_that_is_touched_shows() {
    let _alone = alone();
    let (before, system_before) = (Process::now(), System::now());
    let buf = taken(TAKEN);
    let (after, system_after) = (Process::now(), System::now());
    let grown = |a: Option<u64>, b: Option<u64>| b.unwrap() - a.unwrap();
    assert_about("rss", grown(before.rss_bytes, after.rss_bytes), TAKEN);
    assert_about("anon", grown(before.anon_bytes, after.anon_bytes), TAKEN);
    assert!(after.peak_rss_bytes.unwrap() + SLACK >= after.rss_bytes.unwrap());
    assert!(after.n_minor_faults > before.n_minor_faults);
    println!("system before {system_before:?}\nsystem after {system_after:?}\nprocess {after:?}");
    drop(buf);
    let rss = Process::now().rss_bytes.unwrap();
    assert_about("rss at the end", rss, before.rss_bytes.unwrap());
}

#[test]
fn the_system_adds_up() {
    let system = System::now();
    let total = system.total_bytes.unwrap();
    let parts = [
        system.available_bytes,
        system.used_bytes,
        system.file_bytes,
        system.anon_bytes,
        system.locked_bytes,
    ];
    for part in parts {
        assert!(part.unwrap() < total, "{system:?}");
    }
    assert!(system.swap_out_bytes.is_some() && system.page_in_bytes.is_some());
}

#[test]
fn reading_fills_the_cache_and_dropping_empties_it() {
    let _alone = alone();
    let on_disk = OnDisk::new("cache");
    let Some(file) = on_disk.dropped() else {
        return;
    };
    assert_eq!(cached_bytes(&file), Some(0));
    let before = Process::now();
    read_all(&file);
    let after = Process::now();
    assert_read_from_storage(before, after);
    // A machine short of memory may drop pages at once.
    for _ in 0..5 {
        if cached_bytes(&file) != Some(FILE_LEN as u64) {
            read_all(&file);
        }
    }
    assert_eq!(cached_bytes(&file), Some(FILE_LEN as u64));
    let returned = before.returned_read_bytes.zip(after.returned_read_bytes);
    if let Some((before, after)) = returned {
        assert_about("returned by reads", after - before, FILE_LEN as u64);
    }
    let cases = [
        ((0, 1), 1),
        ((MIB, MIB), MIB),
        ((4095, 2), 2),
        ((FILE_LEN as u64 - 10, u64::MAX), 10),
        ((FILE_LEN as u64, 10), 0),
        ((1 << 40, 10), 0),
        ((MIB, 0), 0),
    ];
    for ((offset, len), expected) in cases {
        let found = cached_bytes_in(&file, Extent { offset, len });
        assert_eq!(found, Some(expected), "{offset} + {len}");
    }
    assert_eq!(drop_cached(&file), Some(0));
}

#[test]
fn mapped_pages_stay_until_they_are_unmapped() {
    let _alone = alone();
    let on_disk = OnDisk::new("mapped");
    let Some(file) = on_disk.dropped() else {
        return;
    };
    let map = Map::new(&FileSet::open(&on_disk.0).unwrap()).unwrap();
    assert_eq!(map.as_slice()[5 << 20], 7);
    read_all(&file);
    let left = drop_cached(&file).unwrap();
    println!("{left} bytes stay for one touched page");
    assert!(0 < left && left < FILE_LEN as u64, "{left}");
    drop(map);
    assert_eq!(drop_cached(&file), Some(0));
}

#[test]
fn direct_reads_leave_nothing_in_the_cache() {
    let _alone = alone();
    let on_disk = OnDisk::new("direct");
    let Some(file) = on_disk.dropped() else {
        return;
    };
    let direct = DirectFile::open(&on_disk.0).unwrap();
    if let Some(why) = direct.refused() {
        skip::<()>(&why);
        return;
    }
    let before = Process::now();
    read_all(&direct);
    assert_eq!(cached_bytes(&file), Some(0));
    assert_read_from_storage(before, Process::now());
}

#[test]
fn the_peak_can_begin_again() {
    let _alone = alone();
    drop(taken(TAKEN));
    let high = Process::now().peak_rss_bytes.unwrap();
    if !reset_peak() {
        skip::<()>("the system keeps the peak for good");
        return;
    }
    let low = Process::now();
    assert_about("peak", low.peak_rss_bytes.unwrap(), low.rss_bytes.unwrap());
    assert!(low.peak_rss_bytes.unwrap() + TAKEN - SLACK <= high);
    drop(taken(TAKEN));
    let again = Process::now().peak_rss_bytes.unwrap();
    assert_about("peak", again, low.rss_bytes.unwrap() + TAKEN);
}

#[test]
fn a_sampler_sees_what_is_gone_at_the_end() {
    let _alone = alone();
    let on_disk = OnDisk::new("sampler");
    let file = on_disk.dropped();
    let before = Process::now().rss_bytes.unwrap();
    let watched = FileSet::open(&on_disk.0).unwrap();
    let sampler = Sampler::start(Duration::from_millis(5), Some(watched)).unwrap();
    let buf = taken(TAKEN);
    if let Some(file) = &file {
        read_all(file);
    }
    // Many intervals, so that one falls in between on a busy machine too.
    std::thread::sleep(Duration::from_millis(300));
    drop(buf);
    if let Some(file) = &file {
        drop_cached(file);
    }
    let watched = sampler.stop();
    let peaks = watched.peaks;
    println!("{peaks:?}");
    assert!(watched.n_samples >= 3);
    assert_eq!(watched.samples.len() as u64, watched.n_samples);
    assert!(watched.samples.is_sorted_by_key(|s| s.at));
    assert!(watched.samples[0].at < Duration::from_millis(100));
    let (first, last) = (watched.samples[0], *watched.samples.last().unwrap());
    assert_about("at the end", last.process.rss_bytes.unwrap(), before);
    if file.is_some() {
        let read = |s: infall::os::meter::Sample| s.process.storage_read_bytes.unwrap();
        assert_about("read", read(last) - read(first), FILE_LEN as u64);
        assert_eq!(last.cached_bytes, Some(0));
    }
    assert_about("peak", peaks.process.rss_bytes.unwrap(), before + TAKEN);
    assert!(peaks.system.used_bytes.unwrap() > TAKEN);
    assert!(peaks.process.locked_bytes.is_some());
    if file.is_some() {
        assert_about("cached", peaks.cached_bytes.unwrap(), FILE_LEN as u64);
    }
    // An hour's interval does not hold up the stop, nor the drop.
    let sampler = Sampler::start(Duration::from_secs(3600), None).unwrap();
    drop(Sampler::start(Duration::from_secs(3600), None).unwrap());
    let watched = sampler.stop();
    assert_eq!(watched.peaks.cached_bytes, None);
    assert!(watched.n_samples >= 1);
}

#[test]
fn looking_takes_no_more_memory_with_time() {
    let _alone = alone();
    let on_disk = OnDisk::new("growth");
    let file = File::open(&on_disk.0).unwrap();
    let look = || {
        for _ in 0..2000 {
            std::hint::black_box((Process::now(), System::now(), cached_bytes(&file)));
        }
        Process::now().anon_bytes.unwrap()
    };
    let (first, second) = (look(), look());
    assert!(second <= first + MIB, "{first} {second}");
}

#[test]
fn held_memory_is_locked_until_it_is_dropped() {
    let _alone = alone();
    let before = Process::now();
    // More than a piece of 256 MiB.
    let bytes = 300 * MIB + 5;
    let held = match simulate_used_memory(bytes) {
        Ok(held) => held,
        Err(error) => return println!("SKIPPED: {error}"),
    };
    assert_eq!(held.bytes(), bytes);
    let during = Process::now();
    for (what, before, during) in [
        ("rss", before.rss_bytes, during.rss_bytes),
        ("locked", before.locked_bytes, during.locked_bytes),
    ] {
        assert_about(what, during.unwrap() - before.unwrap(), bytes);
    }
    drop(held);
    let after = Process::now();
    assert_eq!(after.locked_bytes, before.locked_bytes);
    assert_about("rss", after.rss_bytes.unwrap(), before.rss_bytes.unwrap());
    assert_eq!(simulate_used_memory(0).unwrap().bytes(), 0);
}

#[test]
fn more_memory_than_there_is_is_not_tried() {
    let error = simulate_used_memory(u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("exceeds"), "{error}");
}

/// Set in a process that a test started, which is this program again with fewer rights: a path, or anything.
const CHILD: &str = "INFALL_METER_TEST_CHILD";

/// Runs `test` of this program under `command` with [`CHILD`] set to `value`; what it printed, or `None` where
/// the program could not be started so.
fn in_child(mut command: Command, test: &str, value: &Path) -> Option<String> {
    command.arg(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, value);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skip(&format!("{:?}: {error}", command.get_program())),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !said.contains("running 1 test") {
        return skip(String::from_utf8_lossy(&output.stderr).trim());
    }
    assert!(output.status.success(), "{said}");
    Some(said)
}

#[test]
fn a_refused_lock_is_an_error_with_the_amount() {
    if std::env::var_os(CHILD).is_some() {
        let error = simulate_used_memory(TAKEN).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        let expected = "held 0 B of 64.00 MiB, then refused: mlock";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(Process::now().locked_bytes, Some(0));
        println!("as expected: {error}");
        return;
    }
    let _alone = alone();
    if cfg!(not(target_os = "linux")) {
        return println!("SKIPPED: the limit is set by Linux commands");
    }
    // Root is exempt from the limit, unless the right to lock is taken from it.
    let mut command = if has_capability(IPC_LOCK) {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    command.args(["-c", "ulimit -l 1024 && exec \"$@\"", "sh"]);
    let test = "a_refused_lock_is_an_error_with_the_amount";
    if let Some(said) = in_child(command, test, Path::new("limited")) {
        assert!(said.contains("as expected"), "{said}");
        println!("{said}");
    }
}

#[test]
fn the_cache_of_a_file_of_others_is_not_guessed() {
    if let Some(path) = std::env::var_os(CHILD) {
        match File::open(Path::new(&path)) {
            // Kernels before 6.14 tell everyone, by cachestat; mincore would say that all of it is cached.
            Ok(file) => {
                let found = cached_bytes(&file);
                assert!(matches!(found, None | Some(0)), "{found:?}");
                println!("as expected: {found:?}");
            }
            Err(error) => println!("SKIPPED: {error}"),
        }
        return;
    }
    let _alone = alone();
    let on_disk = OnDisk::new("foreign");
    let Some(_file) = on_disk.dropped() else {
        return;
    };
    if !has_capability(SETUID) {
        return println!("SKIPPED: only root can become someone else");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let test = "the_cache_of_a_file_of_others_is_not_guessed";
    if let Some(said) = in_child(command, test, &on_disk.0) {
        println!("{said}");
    }
}

/// Bits of the capabilities of Linux.
const SETUID: u32 = 7;
const IPC_LOCK: u32 = 14;

fn has_capability(bit: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    set.and_then(|s| u64::from_str_radix(s.trim(), 16).ok())
        .is_some_and(|set| set >> bit & 1 == 1)
}
