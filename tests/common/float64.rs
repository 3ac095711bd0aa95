//! Plain float64 statements of what the operations compute, and results held against them.

/// Each element within `relative` of the largest expected one.
pub fn assert_near(what: &str, found: &[f32], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*f) - e).abs();
        // Written so that NaN fails.
        assert!(
            difference <= relative * size,
            "{what}: element {i} is {f}, expected {e} (largest {size})"
        );
    }
}

/// The same values in float64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

/// The sum of the products.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `weight x / sqrt(mean(x^2) + eps)`
pub fn rms(x: &[f64], weight: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let root = (dot(x, x) / x.len() as f64 + eps).sqrt();
    (0..x.len())
        .map(|i| x[i] / root * weight.map_or(1.0, |w| w[i]))
        .collect()
}

/// Angles of a position, `(cos, sin)...` of `n_rot` values.
pub fn angles(position: usize, n_rot: usize) -> Vec<f64> {
    (0..n_rot / 2)
        .flat_map(|i| {
            let angle = position as f64 * 10_000f64.powf(-2.0 * i as f64 / n_rot as f64);
            [angle.cos(), angle.sin()]
        })
        .collect()
}

pub fn angle_table(positions: impl Iterator<Item = usize>, n_rot: usize) -> Vec<f32> {
    positions
        .flat_map(|p| angles(p, n_rot))
        .map(|v| v as f32)
        .collect()
}

/// Turns pairs of neighbours at the end of `x`.
pub fn turned(mut x: Vec<f64>, angles: &[f64]) -> Vec<f64> {
    let tail = x.len() - angles.len();
    for i in (0..angles.len()).step_by(2) {
        let (a, b) = (x[tail + i], x[tail + i + 1]);
        x[tail + i] = a * angles[i] - b * angles[i + 1];
        x[tail + i + 1] = a * angles[i + 1] + b * angles[i];
    }
    x
}

/// The value of `grid` (ascending, by code) nearest to `x`, ties to the even code.
pub fn nearest(grid: &[f64], x: f64) -> f64 {
    let distance = |code: usize| (grid[code] - x.abs()).abs();
    let better = |a: usize, b: usize| {
        distance(a) < distance(b) || distance(a) == distance(b) && a.is_multiple_of(2)
    };
    let code = (1..grid.len()).fold(0, |best, code| if better(code, best) { code } else { best });
    grid[code].copysign(x)
}

/// Rounds blocks to `grid` times the smallest power of two that lets the block's largest value fit.
pub fn rounded(x: &[f64], block: usize, grid: &[f64], smallest: f64) -> Vec<f64> {
    let top = grid[grid.len() - 1];
    let round = |x: &[f64]| {
        let largest = x.iter().fold(smallest, |m, v| m.max(v.abs()));
        let mut scale = 2f64.powi(-149);
        while top * scale < largest {
            scale *= 2.0;
        }
        x.iter()
            .map(|v| nearest(grid, v / scale) * scale)
            .collect::<Vec<_>>()
    };
    x.chunks(block).flat_map(round).collect()
}

/// Blocks of 64 to E4M3; the last `n_rot` values to bf16 (eight bits of mantissa).
pub fn fp8_row(x: &[f64], n_rot: usize) -> Vec<f64> {
    let grid: Vec<f64> = (0..127)
        .map(|code| match (code / 8, code % 8) {
            (0, m) => f64::from(m) / 512.0,
            (e, m) => (1.0 + f64::from(m) / 8.0) * 2f64.powi(e - 7),
        })
        .collect();
    let (nope, rotary) = x.split_at(x.len() - n_rot);
    let bf16 = |v: &f64| {
        let unit = 2f64.powi(v.abs().log2().floor() as i32 - 7);
        (v / unit).round_ties_even() * unit
    };
    let mut row = rounded(nope, 64, &grid, 1e-4);
    row.extend(rotary.iter().map(bf16));
    row
}

/// Hadamard transform from its definition, then blocks of 32 to E2M1.
pub fn fp4_row(x: &[f64]) -> Vec<f64> {
    let sign = |i: usize, j: usize| {
        if (i & j).count_ones().is_multiple_of(2) {
            1.0
        } else {
            -1.0
        }
    };
    let n = x.len();
    let turned: Vec<f64> = (0..n)
        .map(|i| (0..n).map(|j| sign(i, j) * x[j]).sum::<f64>() / (n as f64).sqrt())
        .collect();
    let grid = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    rounded(&turned, 32, &grid, 6.0 * 2f64.powi(-126))
}

pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The 24 gates of a hyper-connection from its logits.
pub fn hyper_gates(logits: &[f64], eps: f64, n_sinkhorn: usize) -> Vec<f64> {
    let mut m = logits.to_vec();
    m[..4].iter_mut().for_each(|v| *v = logistic(*v) + eps);
    m[4..8].iter_mut().for_each(|v| *v = 2.0 * logistic(*v));
    let c = &mut m[8..];
    for row in c.chunks_mut(4) {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        row.iter_mut().for_each(|v| *v = v.exp() / sum + eps);
    }
    // Columns, then (rows, columns) until there were `n_sinkhorn` of columns.
    for half in 0..2 * n_sinkhorn - 1 {
        let at = |i: usize, j: usize| if half % 2 == 0 { 4 * j + i } else { 4 * i + j };
        for i in 0..4 {
            let sum: f64 = (0..4).map(|j| c[at(i, j)]).sum::<f64>() + eps;
            (0..4).for_each(|j| c[at(i, j)] /= sum);
        }
    }
    m
}
