//! What makes each answer its own: ids, seeds, times.

use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// 64 bits that nobody chose: the standard library seeds its hashers by the system's generator.
pub fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// `prefix` and 24 random hexadecimal digits.
pub fn id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() >> 32)
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_their_form() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| id("msg_")).collect();
        assert_eq!(ids.len(), 1000);
        let hex = |id: &String| {
            let digits = id.strip_prefix("msg_").unwrap();
            digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_hexdigit())
        };
        assert!(ids.iter().all(hex));
    }
}
