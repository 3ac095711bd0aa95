//! Whether a request shows the server's key.

use crate::http::Request;
use std::hint::black_box;

/// Whether `authorization: Bearer KEY` or `x-api-key: KEY` shows this key.
pub fn shows(request: &Request, key: &str) -> bool {
    let bearer = request.header("authorization").and_then(|value| {
        let (scheme, shown) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| shown.trim())
    });
    let shown = [bearer, request.header("x-api-key")];
    shown.into_iter().flatten().any(|shown| is_same(shown, key))
}

/// Takes the same time wherever the first difference is.
fn is_same(a: &str, b: &str) -> bool {
    let pairs = a.bytes().zip(b.bytes());
    let differences = pairs.fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::is_same;

    #[test]
    fn only_the_same_is_the_same() {
        assert!(is_same("secret", "secret"));
        for other in ["secres", "tecret", "secre", "secret2", ""] {
            assert!(!is_same(other, "secret"));
        }
    }
}
