//! Whether a model file is what was published: all of it is read past the page cache, hashed, and its scales are
//! looked at.
//!
//! ```text
//! disk -> reader -> hasher -> look -+        one thread each, so that the slowest alone decides the speed
//!           ^---- empty buffers ----+
//! ```
//!
//! Parts of a model are read side by side: a hash keeps one core busy, and disks give more than that.

use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{self, Gguf};
use crate::os::{self, AlignedBuf, DirectFile, File, ReadAt};
use crate::sha256::Sha256;
use look::Look;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};

mod look;

/// Bytes of a read: long enough that a disk reads at its full speed.
const WINDOW: usize = 8 << 20;

/// Buffers on their way: one for each stage, and one that waits.
const N_BUFFERS: usize = 4;

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The hash of all bytes.
    pub sha256: [u8; 32],
    /// Bytes of the file.
    pub n_bytes: u64,
    /// Tensors that were looked at.
    pub n_tensors: usize,
    /// What is wrong, in the order of the file.
    pub faults: Vec<String>,
    /// Things worth telling that are no faults.
    pub notes: Vec<String>,
    /// Time that each stage worked.
    pub busy: Busy,
}

/// How long each stage worked; the rest of the time it waited for another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// Reads.
    pub read: Duration,
    /// The hash.
    pub hash: Duration,
    /// The scales.
    pub look: Duration,
}

/// The files of a model.
#[derive(Clone, Debug)]
pub struct Files {
    /// Those that are there, in order.
    pub paths: Vec<PathBuf>,
    /// Their bytes together.
    pub n_bytes: u64,
    /// What is wrong with them as a set.
    pub fault: Option<String>,
}

/// The files of the model of which `path` is the file or one of the parts; `path` alone, if they do not belong together.
///
/// Errors: `Io` when a file cannot be read.
pub fn files(path: &Path) -> Result<Files> {
    match gguf::survey(path) {
        Ok((files, gguf)) => Ok(Files {
            paths: files.files().map(|f| f.path().to_owned()).collect(),
            n_bytes: files.files().map(ReadAt::len).sum(),
            fault: gguf.check_complete().err().map(|e| e.to_string()),
        }),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(error) => Ok(Files {
            paths: vec![path.to_owned()],
            n_bytes: File::open(path)?.len(),
            // What is wrong with one file is found again when it is read.
            fault: Gguf::survey(&File::open(path)?)
                .is_ok()
                .then(|| error.to_string()),
        }),
    }
}

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// Reads all of the files at `paths`, as many at a time as there are CPUs; `progress(done)` is told the bytes of all of them
/// and can stop it. The reports are in the order of the files.
///
/// Errors: that of the first file that has one: `Io` when it cannot be read or the work was stopped, `Format` when it changes
/// meanwhile. What is wrong with the contents is no error but in the report.
pub fn all(paths: &[PathBuf], progress: &mut dyn FnMut(u64) -> bool) -> Result<Vec<Report>> {
    let (next, done, stop) = (
        AtomicUsize::new(0),
        AtomicU64::new(0),
        AtomicBool::new(false),
    );
    let n_workers = paths.len().min(os::n_cpus());
    let work = |to_main: Sender<(usize, Result<Report>)>| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(i) else { break };
            let report = file(path, &mut |n| {
                done.fetch_add(n, Ordering::Relaxed);
                !stop.load(Ordering::Relaxed)
            });
            // The other end waits for all of them.
            let _ = to_main.send((i, report));
        }
    };
    std::thread::scope(|scope| {
        let (to_main, reports) = channel();
        for _ in 0..n_workers {
            let to_main = to_main.clone();
            Builder::new()
                .spawn_scoped(scope, || work(to_main))
                .map_err(|e| Error::io("a thread for a file", &e))?;
        }
        drop(to_main);
        let mut found = Vec::new();
        loop {
            match reports.recv_timeout(TICK) {
                Ok(report) => found.push(report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !progress(done.load(Ordering::Relaxed)) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        found.sort_by_key(|(i, _)| *i);
        found.into_iter().map(|(_, report)| report).collect()
    })
}

/// Reads all of the file at `path`; `progress(n)` is told that `n` more bytes are done and can stop it.
///
/// Errors: as [`all`].
fn file(path: &Path, progress: &mut dyn FnMut(u64) -> bool) -> Result<Report> {
    let file = DirectFile::open(path)?;
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    let header = File::open(path)?;
    file.file().check_same(&header)?;
    let gguf = Gguf::survey(&header);
    let mut look = Look::default();
    match &gguf {
        Err(error) if error.kind() == ErrorKind::Io => return Err(error.clone()),
        Err(error) => faults.push(error.to_string()),
        Ok(gguf) => {
            faults.extend(extent_fault(gguf));
            notes.extend(type_note(gguf));
            notes.extend(gguf.notes.iter().cloned());
            look = Look::new(&gguf.tensors, file.len());
        }
    }
    let n_tensors = look.n_tensors();
    let (sha256, busy) = read_all(&file, &mut look, progress)?;
    file.check()?;
    notes.extend(file.refused());
    faults.extend(look.faults());
    notes.extend(look.notes());
    Ok(Report {
        sha256,
        n_bytes: file.len(),
        n_tensors,
        faults,
        notes,
        busy,
    })
}

/// What is not all there.
fn extent_fault(gguf: &Gguf) -> Option<String> {
    let first = gguf.beyond().next()?;
    let whole: u64 = gguf.parts.iter().map(|p| p.whole_len).sum();
    Some(format!(
        "{} of {whole} bytes are there: {} of {} tensors end beyond them, first {}",
        gguf.file_len,
        gguf.beyond().count(),
        gguf.tensors.len(),
        first.name
    ))
}

/// Tensors of types whose scales are not known.
fn type_note(gguf: &Gguf) -> Option<String> {
    let (first, n) = (gguf.refused.first()?, gguf.refused.len());
    Some(format!(
        "scales of {n} tensors were not looked at, first {first}"
    ))
}

/// A buffer and its bytes that were read.
type Filled = (AlignedBuf, usize);

/// Hashes the file and shows it to `look`, piece by piece.
fn read_all(
    file: &DirectFile,
    look: &mut Look<'_>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<([u8; 32], Busy)> {
    let (give_back, empty) = channel();
    let (to_hasher, filled) = channel();
    let (to_look, hashed) = channel::<Filled>();
    for _ in 0..N_BUFFERS {
        // It cannot fail: the other end is in this function.
        let _ = give_back.send(AlignedBuf::zeroed(WINDOW)?);
    }
    std::thread::scope(|scope| {
        let refused = |e| Error::io("a thread for the reads", &e);
        let reader = Builder::new()
            .spawn_scoped(scope, move || read(file, &empty, to_hasher))
            .map_err(refused)?;
        let hasher = Builder::new()
            .spawn_scoped(scope, move || hash(&filled, &to_look))
            .map_err(refused)?;
        let (mut busy, mut stopped) = (Duration::ZERO, false);
        for (buf, n) in &hashed {
            let start = Instant::now();
            look.at(&buf.as_slice()[..n]);
            busy += start.elapsed();
            let _ = give_back.send(buf); // the reader may be done
            if !progress(n as u64) {
                stopped = true;
                break;
            }
        }
        // Both ends of the chain are closed, so both threads end.
        drop((hashed, give_back));
        let (hash, hash_busy) = joined(hasher);
        let read = joined(reader);
        if stopped {
            return Err(Error::new(ErrorKind::Io, "stopped"));
        }
        let busy = Busy {
            read: read?,
            hash: hash_busy,
            look: busy,
        };
        Ok((hash, busy))
    })
}

/// The first stage; ends with the file, or when no buffer comes any more.
fn read(
    file: &DirectFile,
    empty: &Receiver<AlignedBuf>,
    to_hasher: Sender<Filled>,
) -> Result<Duration> {
    let mut busy = Duration::ZERO;
    let mut offset = 0;
    while offset < file.len() {
        let Ok(mut buf) = empty.recv() else { break };
        let n = (file.len() - offset).min(WINDOW as u64) as usize;
        let start = Instant::now();
        file.read_window(offset, buf.as_mut_slice(), n)?;
        busy += start.elapsed();
        offset += n as u64;
        if to_hasher.send((buf, n)).is_err() {
            break;
        }
    }
    Ok(busy)
}

/// The second stage; ends when the first one does.
fn hash(filled: &Receiver<Filled>, to_look: &Sender<Filled>) -> ([u8; 32], Duration) {
    let mut sha = Sha256::new();
    let mut busy = Duration::ZERO;
    for (buf, n) in filled {
        let start = Instant::now();
        sha.update(&buf.as_slice()[..n]);
        busy += start.elapsed();
        if to_look.send((buf, n)).is_err() {
            break;
        }
    }
    (sha.finish(), busy)
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
