//! Results held against float64.

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
