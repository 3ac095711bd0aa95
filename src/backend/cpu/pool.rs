//! FENCE: worker threads.
//!
//! A [`Pool`] runs one job at a time: a closure called once for each item, on any thread. The safe entry
//! points hand out parts of a slice that cannot overlap, whatever the order of the items. The calling thread
//! works too; workers spin briefly for the next job, then park.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Looks at the job counter before a worker parks; about 0.3 ms, several times the gap between two jobs of a token. (With 1,500
/// workers slept in front of every mixer of the hyper-connections: 0.80 instead of 0.68 ms a token for four layers.)
const SPINS: u32 = 6000;

/// Called with an item and the number of the thread that runs it.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    n_items: usize,
}

struct Shared {
    /// Number of the current job. Its change publishes `job`.
    epoch: AtomicUsize,
    /// Written by the pool's owner while no worker is busy; read by workers after `epoch` changed.
    job: UnsafeCell<Job>,
    /// Next item of the current job.
    next: AtomicUsize,
    /// Workers that have not finished the current job.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: all fields but `job` are atomics. `job` is written only by `Pool::run`, which has `&mut Pool` and
// returns only when `busy` is 0, so never while a worker reads it; workers read it between an acquire load of
// the changed `epoch` and their release decrement of `busy`. The task it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is used only while `Pool::run` keeps the closure alive.
unsafe impl Send for Shared {}

/// A fixed set of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    n_jobs: u64,
}

impl Pool {
    /// A pool of `n_threads` threads, the caller's included.
    ///
    /// Errors: the system refuses a thread.
    pub fn new(n_threads: usize) -> Result<Pool> {
        fn nothing(_: usize, _: usize) {}
        let idle: &'static Task<'static> = &nothing;
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(Job {
                task: idle,
                n_items: 0,
            }),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            n_jobs: 0,
        };
        for id in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("compute-{id}"))
                .spawn(move || work(&shared, id))
                .map_err(|e| {
                    Error::io(format!("starting compute thread {id} of {n_threads}"), &e)
                })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that work, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Jobs that were shared out so far: as many times did all threads wait for the last of them.
    pub fn n_jobs(&self) -> u64 {
        self.n_jobs
    }

    /// Calls `task(item, thread)` once for each item below `n_items` and returns when all calls have.
    /// `thread` is below [`Pool::n_threads`]; two calls at the same time have different ones.
    pub fn run(&mut self, n_items: usize, task: &Task<'_>) {
        if n_items <= 1 || self.workers.is_empty() {
            (0..n_items).for_each(|item| task(item, 0));
            return;
        }
        self.n_jobs += 1;
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is dropped from use before this call returns:
        // every worker has decremented `busy` after its last use of it.
        let task: &Task<'static> = unsafe { std::mem::transmute(task) };
        // SAFETY: `&mut self` and `busy == 0` (it was waited for below) mean that no worker reads `job` now.
        unsafe { *shared.job.get() = Job { task, n_items } };
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        // `unpark` of a thread that spins costs one atomic swap.
        self.workers.iter().for_each(|w| w.thread().unpark());

        let mine = catch_unwind(AssertUnwindSafe(|| run_items(shared, task, n_items, 0)));
        let mut spins = 0;
        while shared.busy.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
        }
        if let Err(cause) = mine {
            std::panic::resume_unwind(cause);
        }
        assert!(
            !shared.panicked.load(Ordering::Relaxed),
            "a compute thread panicked"
        );
    }

    /// Calls `f(row, &mut data[row], &mut scratch[thread])` for each row of `row_len` values.
    pub fn for_rows<T: Send, S: Send>(
        &mut self,
        data: &mut [T],
        row_len: usize,
        scratch: &mut [S],
        f: impl Fn(usize, &mut [T], &mut S) + Sync,
    ) {
        assert!(
            row_len > 0 && data.len().is_multiple_of(row_len),
            "data must be whole rows"
        );
        assert!(
            scratch.len() >= self.n_threads(),
            "one scratch for each thread"
        );
        let n_rows = data.len() / row_len;
        let (data, scratch) = (
            Shareable(data.as_mut_ptr()),
            Shareable(scratch.as_mut_ptr()),
        );
        self.run(n_rows, &|row, thread| {
            // SAFETY: row < n_rows, so the range lies in `data`; `run` calls each row once, so no other
            // reference to it exists. `data` is borrowed mutably until `run` returns.
            let values = unsafe { std::slice::from_raw_parts_mut(data.at(row * row_len), row_len) };
            // SAFETY: thread < n_threads <= scratch.len(), and no two calls at a time share a thread.
            let own = unsafe { &mut *scratch.at(thread) };
            f(row, values, own);
        });
    }

    /// Cuts each output into tiles of whole columns and calls `f(output, tile)` for each.
    pub fn for_tiles(&mut self, outputs: &mut [Tiled<'_>], f: impl Fn(usize, Tile<'_>) + Sync) {
        let n_items = outputs.iter().map(Tiled::n_tiles).sum();
        let outputs = &*outputs;
        self.run(n_items, &|item, _| {
            let (mut o, mut tile) = (0, item);
            while tile >= outputs[o].n_tiles() {
                tile -= outputs[o].n_tiles();
                o += 1;
            }
            let out = &outputs[o];
            let start = tile * out.tile;
            f(
                o,
                Tile {
                    output: out,
                    columns: start..(start + out.tile).min(out.cols),
                },
            );
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches panics of its tasks, so it ends normally.
            let _ = worker.join();
        }
    }
}

/// A row-major output `[rows, cols]` that is computed in tiles of columns.
pub struct Tiled<'a> {
    data: Shareable<f32>,
    n_rows: usize,
    cols: usize,
    tile: usize,
    borrow: std::marker::PhantomData<&'a mut [f32]>,
}

impl<'a> Tiled<'a> {
    /// Tiles of `tile` columns over `data[.., cols]`.
    pub fn new(data: &'a mut [f32], cols: usize, tile: usize) -> Tiled<'a> {
        assert!(
            cols > 0 && tile > 0 && data.len().is_multiple_of(cols),
            "data must be whole rows"
        );
        let n_rows = data.len() / cols;
        Tiled {
            data: Shareable(data.as_mut_ptr()),
            n_rows,
            cols,
            tile,
            borrow: std::marker::PhantomData,
        }
    }

    fn n_tiles(&self) -> usize {
        self.cols.div_ceil(self.tile)
    }
}

/// Some columns of an output, owned by one call.
pub struct Tile<'a> {
    output: &'a Tiled<'a>,
    columns: Range<usize>,
}

impl Tile<'_> {
    /// The columns of this tile.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Sets `parts` to this tile's parts of as many different rows.
    pub fn rows<'t>(&'t mut self, rows: &[usize], parts: &mut [&'t mut [f32]]) {
        for (i, (row, part)) in rows.iter().zip(parts).enumerate() {
            assert!(*row < self.output.n_rows, "row of a tile");
            assert!(!rows[..i].contains(row), "rows are different");
            let start = row * self.output.cols + self.columns.start;
            // SAFETY: as in `row`; the rows are different, so their parts do not overlap, and all are borrowed for as
            // long as the tile is.
            *part = unsafe {
                std::slice::from_raw_parts_mut(self.output.data.at(start), self.columns.len())
            };
        }
    }

    /// This tile's part of a row.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.output.n_rows, "row of a tile");
        let start = row * self.output.cols + self.columns.start;
        // SAFETY: the range lies in row `row` of the output. Tiles of one output have disjoint columns, each
        // exists once, and `&mut self` keeps its rows from being borrowed twice.
        unsafe { std::slice::from_raw_parts_mut(self.output.data.at(start), self.columns.len()) }
    }
}

/// A pointer that closures on several threads may hold; what they do with it is argued at each use.
struct Shareable<T>(*mut T);

impl<T> Shareable<T> {
    /// The address of element `i`, which must exist where it is dereferenced.
    fn at(&self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}

// SAFETY: the pointer alone does nothing; each dereference has its own argument.
unsafe impl<T: Send> Sync for Shareable<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shareable<T> {}

fn work(shared: &Shared, id: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            spins += 1;
            // A job that comes between the look and the park has unparked this thread, so `park` returns.
            if spins < SPINS {
                std::hint::spin_loop()
            } else {
                std::thread::park()
            }
        }
        seen = seen.wrapping_add(1);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the acquire load above saw the epoch of this job, and `run` does not write `job` again
        // before this worker decrements `busy`.
        let job = unsafe { *shared.job.get() };
        // SAFETY: `run` keeps the closure alive until `busy` is 0.
        let task = unsafe { &*job.task };
        if catch_unwind(AssertUnwindSafe(|| {
            run_items(shared, task, job.n_items, id)
        }))
        .is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

fn run_items(shared: &Shared, task: &Task<'_>, n_items: usize, thread: usize) {
    loop {
        let item = shared.next.fetch_add(1, Ordering::Relaxed);
        if item >= n_items {
            return;
        }
        task(item, thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_runs_once_on_any_number_of_threads() {
        for n_threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(n_threads).unwrap();
            let mut scratch = vec![0usize; n_threads];
            for n_rows in [0, 1, 2, 7, 100] {
                let mut data = vec![0u32; n_rows * 3];
                pool.for_rows(&mut data, 3, &mut scratch, |row, values, own| {
                    values.iter_mut().for_each(|v| *v += row as u32 + 1);
                    *own += 1;
                });
                let expected: Vec<u32> = (0..n_rows as u32).flat_map(|r| [r + 1; 3]).collect();
                assert_eq!(data, expected);
            }
            assert_eq!(scratch.iter().sum::<usize>(), 110);
        }
    }

    #[test]
    fn tiles_cover_all_columns_of_all_outputs() {
        let mut pool = Pool::new(3).unwrap();
        let (mut a, mut b) = (vec![0.0; 4 * 10], vec![0.0; 4]);
        let mut outputs = [Tiled::new(&mut a, 10, 3), Tiled::new(&mut b, 1, 8)];
        pool.for_tiles(&mut outputs, |o, mut tile| {
            for row in 0..4 {
                let first = tile.columns().start;
                for (i, v) in tile.row(row).iter_mut().enumerate() {
                    *v += (o * 1000 + row * 100 + first + i) as f32;
                }
            }
        });
        let expected: Vec<f32> = (0..4)
            .flat_map(|r| (0..10).map(move |c| (r * 100 + c) as f32))
            .collect();
        assert_eq!(a, expected);
        assert_eq!(b, [1000.0, 1100.0, 1200.0, 1300.0]);
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        for fatal in 0..8 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|item, _| assert_ne!(item, fatal));
            }));
            assert!(failed.is_err());
            pool.shared.panicked.store(false, Ordering::Relaxed);
        }
        pool.run(8, &|_, _| {});
    }
}
