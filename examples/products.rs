//! How fast weights of each format are multiplied with a vector, read from memory and from the first cache.
//!
//! ```text
//! cargo run --release --example products [THREADS [TABLE [FORMAT]]]
//! ```
//!
//! One line a format: GB/s of stored weights over all threads for matrices of 2048 rows of 4096 weights that do not fit the
//! caches, best of several passes; then GB/s of one thread for a few rows that do.
use infall::backend::cpu::dispatch::{FormatKernel, available};
use infall::quant::Format;
use infall::quant::cast::to_bytes;
use infall::quant::wide::{Act512, quantize_512};
use std::hint::black_box;
use std::time::Instant;

const COLS: usize = 4096;
const ROWS: usize = 2048;
/// Rows that a thread takes at a time, as the engine does.
const TILE: usize = 64;
/// Bytes of matrices that are read from memory in a pass, at least.
const FROM_MEMORY: usize = 256 << 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let n_threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(2);
    let tables = available();
    let name = args.next();
    let table = match &name {
        Some(name) => tables.iter().find(|t| t.name == name.as_str()),
        None => tables.last(),
    };
    let Some(table) = table else {
        eprintln!("no such table on this machine");
        return;
    };
    let only = args.next();
    let x: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut blocks = vec![Act512::ZERO; COLS / 512];
    quantize_512(&x, &mut blocks);
    let x = to_bytes(&blocks);
    println!("table {}, {n_threads} threads", table.name);
    for format in Format::ALL {
        let (Some(kernel), true) = (table.weight(format), format.block_len() > 1) else {
            continue;
        };
        if only.as_ref().is_some_and(|only| only != format.name()) {
            continue;
        }
        let Some(row_bytes) = format.row_bytes(COLS) else {
            continue;
        };
        let matrix = row_bytes * ROWS;
        let weights = random(matrix * FROM_MEMORY.div_ceil(matrix));
        let memory = (0..9).map(|_| pass(&kernel, row_bytes, &weights, x, n_threads));
        let memory = memory.fold(0.0, f64::max);
        let few = &weights[..row_bytes * 8];
        let cache = (0..9).map(|_| repeat(&kernel, few, x)).fold(0.0, f64::max);
        println!("{:<8} {memory:6.2} {cache:6.2}", format.name());
    }
}

/// GB/s of one pass over `weights`.
fn pass(
    kernel: &FormatKernel,
    row_bytes: usize,
    weights: &[u8],
    x: &[u8],
    n_threads: usize,
) -> f64 {
    let share = (weights.len() / row_bytes).div_ceil(n_threads) * row_bytes;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for weights in weights.chunks(share) {
            scope.spawn(move || {
                let mut y = [0.0; TILE];
                for rows in weights.chunks(TILE * row_bytes) {
                    let y = &mut y[..rows.len() / row_bytes];
                    (kernel.rows)(rows, x, y);
                    black_box(y);
                }
            });
        }
    });
    weights.len() as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// GB/s of the same few rows again and again.
fn repeat(kernel: &FormatKernel, rows: &[u8], x: &[u8]) -> f64 {
    let n = (16 << 20) / rows.len();
    let start = Instant::now();
    for _ in 0..n {
        let mut y = [0.0; 8];
        (kernel.rows)(black_box(rows), x, &mut y);
        black_box(y);
    }
    (n * rows.len()) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn random(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = vec![0; len];
    for byte in &mut bytes {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        *byte = (state >> 56) as u8;
    }
    bytes
}
