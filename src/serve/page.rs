//! `GET /`: the page, one file without anything from outside. Its sources lie in page/ and are joined here.

use crate::error::Result;
use crate::http::{Responder, Status};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

/// Files of the page; `{{NAME}}` stands in the page for what a file holds.
const PARTS: &[(&str, &str)] = &[
    ("{{page.css}}", include_str!("page/page.css")),
    ("{{base.js}}", include_str!("page/base.js")),
    ("{{markdown.js}}", include_str!("page/markdown.js")),
    ("{{chats.js}}", include_str!("page/chats.js")),
    ("{{chat.js}}", include_str!("page/chat.js")),
    ("{{engine.js}}", include_str!("page/engine.js")),
    ("{{start.js}}", include_str!("page/start.js")),
];

/// Stands in the page for what a style and a script must name so that they are the page's own.
const NONCE: &str = "__NONCE__";

/// The page, whole but for the nonce.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let frame = include_str!("page/page.html").to_owned();
    PARTS
        .iter()
        .fold(frame, |page, (name, text)| page.replace(name, text))
});

/// Answers with the page.
///
/// Errors: `Closed`, when the client is gone.
pub fn respond(responder: &mut Responder<'_>) -> Result<()> {
    // The standard library seeds each hasher from the system.
    let random = || RandomState::new().build_hasher().finish();
    let nonce = format!("{:016x}{:016x}", random(), random());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let fields = [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", policy.as_str()),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ];
    let page = PAGE.replace(NONCE, &nonce);
    responder.respond(Status::Ok, &fields, page.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_whole() {
        assert!(PAGE.len() <= 120_000, "{} bytes", PAGE.len());
        for (name, text) in PARTS {
            assert!(!PAGE.contains(name), "{name} is not replaced");
            assert!(PAGE.contains(text), "{name} has no place in the page");
        }
        assert_eq!(PAGE.matches(NONCE).count(), 2);
        // Text inside the script must not end it.
        assert_eq!(PAGE.matches("</script").count(), 1);
        assert_eq!(PAGE.matches("</style").count(), 1);
    }

    #[test]
    fn the_page_names_nothing_elsewhere() {
        for (name, text) in PARTS {
            for outside in ["src=", "@import", "url(", "innerHTML", "eval("] {
                assert!(!text.contains(outside), "{name} has '{outside}'");
            }
        }
    }
}
