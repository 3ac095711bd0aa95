//! Whether a request shows the server's key.

use crate::http::Request;
use std::hint::black_box;

/// Where clients put a key: Anthropic's, Azure's and Google's names for it.
const FIELDS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

/// Whether this key is shown, as `authorization: Bearer KEY`, `authorization: KEY` or under another name that clients have for it.
pub fn shows(request: &Request, key: &str) -> bool {
    let bearer = request.header("authorization").map(|value| {
        let parts = value.split_once(' ');
        let parts = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        parts.map_or(value, |(_, shown)| shown.trim())
    });
    let others = FIELDS.into_iter().filter_map(|name| request.header(name));
    bearer
        .into_iter()
        .chain(others)
        .any(|shown| is_same(shown, key))
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
