//! Which web pages may ask this server. Source: Fetch Standard, "HTTP extensions".
//!
//! A browser sends a page's request before it asks whether the page may see the answer; work for a page that may not
//! would be done for nobody. So these requests are refused, unless they come from this server's own pages.

use super::request::Request;

/// Whose request it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Asker {
    /// No page's, or that of a page of this server.
    Own,
    /// That of a page whose origin was allowed.
    Allowed(String),
    /// That of another page.
    Foreign,
}

/// `allowed`: an origin like `https://example.org`, or `*` for all, which the answer names, as browsers ask for where
/// pages send a key.
pub fn asker(request: &Request, allowed: Option<&str>) -> Asker {
    let mut origins = request.headers("origin");
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return Asker::Own,
        (Some(origin), None) => origin,
        (Some(_), Some(_)) => return Asker::Foreign,
    };
    match allowed {
        Some(allowed) if allowed == "*" || allowed.eq_ignore_ascii_case(origin) => {
            return Asker::Allowed(origin.into());
        }
        _ => {}
    }
    let host = origin.split_once("://").map(|(_, host)| host);
    match host {
        Some(host) if host.eq_ignore_ascii_case(&request.host) => Asker::Own,
        _ => Asker::Foreign,
    }
}

/// Whether it can be an origin that pages are allowed from.
pub fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    // Sandboxed pages and files have the origin null.
    text == "*"
        || text == "null"
        || host.is_some_and(|h| !h.is_empty() && super::target::is_host(h))
}

/// What a page may ask for, as fields of the answer to `OPTIONS`.
pub fn permissions(request: &Request, asker: &Asker) -> Vec<(&'static str, String)> {
    let methods = "GET, HEAD, POST, DELETE, OPTIONS";
    let mut fields = vec![("allow", methods.to_string())];
    if let Asker::Allowed(_) = asker {
        fields.push(("access-control-allow-methods", methods.into()));
        fields.push(("access-control-max-age", "600".into()));
        // All fields: `*` would leave out authorization.
        if let Some(names) = request.header("access-control-request-headers") {
            fields.push(("access-control-allow-headers", names.into()));
        }
    }
    fields
}
