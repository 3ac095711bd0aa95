//! The request line: method, target, version. Source: RFC 9112 section 3, RFC 3986 section 2.1.

use super::fields::is_token;
use super::refusal::{Refusal, Status};
use super::request::{Method, Request};

/// The request that a line without its end begins; its fields and body are still to come.
pub fn request(line: &[u8]) -> Result<Request, Refusal> {
    let words = "method, target and HTTP version with one space between";
    if let Some(b) = line.iter().find(|b| !(b' '..=b'~').contains(b)) {
        return Err(Refusal::bad(format!(
            "request line: found byte 0x{b:02x}, expected {words}"
        )));
    }
    let line = String::from_utf8_lossy(line); // ASCII by the check above
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::bad(format!("request line: expected {words}")));
    };
    // Before anything else: another version may have another form.
    let is_http_1_1 = http_1_1(version)?;
    let method = known(method)?;
    let target = Target::parse(method, target)?;
    Ok(Request {
        method,
        path: decoded(target.path)?,
        query: target.query.into(),
        host: target.host.into(),
        is_http_1_1,
        keep_alive: is_http_1_1,
        fields: Vec::new(),
        body: Vec::new(),
    })
}

fn known(name: &str) -> Result<Method, Refusal> {
    let method = Method::ALL.iter().find(|(n, _)| *n == name);
    match method {
        Some((_, method)) => Ok(*method),
        None if is_token(name.as_bytes()) => Err(Refusal::new(
            Status::NotImplemented,
            format!("method {name}: not known here"),
        )),
        None => Err(Refusal::bad("request line: the method is no name")),
    }
}

/// Whether it is 1.1 (or a later 1.x, which a server of 1.1 understands) and not 1.0.
fn http_1_1(version: &str) -> Result<bool, Refusal> {
    match version.strip_prefix("HTTP/").map(str::as_bytes) {
        Some([b'1', b'.', minor @ b'0'..=b'9']) => Ok(*minor != b'0'),
        Some([b'0'..=b'9', b'.', b'0'..=b'9']) => Err(Refusal::new(
            Status::VersionNotSupported,
            format!("found {version}, expected HTTP/1.1"),
        )),
        _ => Err(Refusal::bad("request line: expected HTTP/1.1 at its end")),
    }
}

struct Target<'a> {
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl Target<'_> {
    fn parse(method: Method, text: &str) -> Result<Target<'_>, Refusal> {
        if text == "*" && method == Method::Options {
            return Ok(Target {
                host: "",
                path: text,
                query: "",
            });
        }
        let (host, rest) = match text.starts_with('/') {
            true => ("", text),
            false => absolute(text)?,
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = if path.is_empty() { "/" } else { path };
        if rest.contains('#') {
            return Err(Refusal::bad("target: found '#', which is not sent"));
        }
        Ok(Target { host, path, query })
    }
}

/// Host and the rest of `http://host/rest`.
fn absolute(text: &str) -> Result<(&str, &str), Refusal> {
    let wrong = || Refusal::bad("target: expected a path that begins with '/', or an http URL");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    if !["http", "https"]
        .iter()
        .any(|s| scheme.eq_ignore_ascii_case(s))
    {
        return Err(wrong());
    }
    let (host, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if host.is_empty() || !is_host(host) {
        return Err(Refusal::bad("target: expected a host behind '://'"));
    }
    Ok((host, rest))
}

/// Whether it can be a name or address with or without a port. Users and passwords are none of ours.
pub fn is_host(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~%:[]!$&'()*+;=".contains(&b);
    text.bytes().all(fits)
}

/// Without percent-encoding.
fn decoded(path: &str) -> Result<String, Refusal> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        let mut byte = *first;
        if byte == b'%' {
            let digit = |i: usize| char::from(*behind.get(i)?).to_digit(16);
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(Refusal::bad(
                    "target: expected two hexadecimal digits behind '%'",
                ));
            };
            byte = (high * 16 + low) as u8;
            rest = &behind[2..];
        }
        out.push(byte);
    }
    match String::from_utf8(out) {
        Ok(path) if !path.contains(char::is_control) => Ok(path),
        _ => Err(Refusal::bad(
            "target: expected a path of UTF-8 without control characters",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        for (line, method, path, query, host) in [
            ("GET / HTTP/1.1", Method::Get, "/", "", ""),
            (
                "HEAD /a%20b%C3%a9%2fc?x=%20 HTTP/1.1",
                Method::Head,
                "/a bé/c",
                "x=%20",
                "",
            ),
            (
                "POST HTTP://h:80/v1?a?b HTTP/1.0",
                Method::Post,
                "/v1",
                "a?b",
                "h:80",
            ),
            ("GET https://[::1] HTTP/1.1", Method::Get, "/", "", "[::1]"),
            ("GET http://h?q HTTP/1.1", Method::Get, "/", "q", "h"),
            ("OPTIONS * HTTP/1.1", Method::Options, "*", "", ""),
            (
                "DELETE //x//../ HTTP/1.9",
                Method::Delete,
                "//x//../",
                "",
                "",
            ),
        ] {
            let found = request(line.as_bytes()).unwrap();
            assert_eq!(
                (found.method, &*found.path, &*found.query, &*found.host),
                (method, path, query, host),
                "{line}"
            );
            assert_eq!(found.is_http_1_1, !line.ends_with('0'), "{line}");
        }
    }

    #[test]
    fn other_lines_have_one_status_each() {
        for (line, code) in [
            ("", 400),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
            (" GET / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("GET\t/\tHTTP/1.1", 400),
            ("GET / /HTTP/1.1", 400),
            ("GET / http/1.1", 400),
            ("GET / HTTP/1.11", 400),
            ("GET / HTTP/11", 400),
            ("GET / HTTP/2.0", 505),
            ("PRI * HTTP/2.0", 505),
            ("get / HTTP/1.1", 501),
            ("CONNECT h:1 HTTP/1.1", 501),
            ("TRACE / HTTP/1.1", 501),
            ("G(T / HTTP/1.1", 400),
            ("GET * HTTP/1.1", 400),
            ("GET x HTTP/1.1", 400),
            ("GET ftp://h/ HTTP/1.1", 400),
            ("GET http:///x HTTP/1.1", 400),
            ("GET http://u@h/ HTTP/1.1", 400),
            ("GET /#x HTTP/1.1", 400),
            ("GET /é HTTP/1.1", 400),
            ("GET /\0 HTTP/1.1", 400),
            ("GET /% HTTP/1.1", 400),
            ("GET /%4 HTTP/1.1", 400),
            ("GET /%+4 HTTP/1.1", 400),
            ("GET /%zz HTTP/1.1", 400),
            ("GET /%00 HTTP/1.1", 400),
            ("GET /%0a HTTP/1.1", 400),
            ("GET /%ff HTTP/1.1", 400),
            ("GET /\r HTTP/1.1", 400),
        ] {
            let found = request(line.as_bytes()).unwrap_err();
            assert_eq!(found.status.code(), code, "{line}: {}", found.message);
        }
    }
}
