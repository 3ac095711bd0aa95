//! `GET /`: the page, one file without anything from outside.

use crate::error::Result;
use crate::http::{Responder, Status};
use std::hash::{BuildHasher, Hasher, RandomState};

const PAGE: &str = include_str!("page.html");

/// Stands in the page for what a style and a script must name so that they are the page's own.
const NONCE: &str = "__NONCE__";

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
