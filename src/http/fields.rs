//! Header fields, and what they say of the body behind them. Source: RFC 9112 sections 5 and 6.

use super::refusal::{Refusal, Status};
use super::request::Request;
use super::target::is_host;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Sized(usize),
    /// Chunks with their sizes in front.
    Chunked,
}

/// Whether it is a name in the sense of RFC 9110 section 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !text.is_empty() && text.iter().all(fits)
}

/// Name in lower case and value of a line without its end.
pub fn parse(line: &[u8]) -> Result<(String, String), Refusal> {
    if let [b' ' | b'\t', ..] = line {
        return Err(Refusal::bad(
            "header: found a line that goes on with the one before",
        ));
    }
    let colon = memchr::memchr(b':', line);
    let colon = colon.ok_or_else(|| Refusal::bad("header: found a line without ':'"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Refusal::bad(
            "header: found what is no name in front of ':'",
        ));
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase(); // a token is ASCII
    // Values in latin-1 are allowed, and opaque (RFC 9110 section 5.5); none is used here. A character takes no more bytes
    // than before.
    let value = match std::str::from_utf8(value) {
        Ok(value) => value.to_owned(),
        Err(_) => {
            let ascii = |byte: &u8| {
                if byte.is_ascii() {
                    char::from(*byte)
                } else {
                    '?'
                }
            };
            value.iter().map(ascii).collect()
        }
    };
    if value.contains(|c: char| c.is_control() && c != '\t') {
        return Err(Refusal::bad(format!(
            "header: {name}: found a control character"
        )));
    }
    Ok((name, value.trim_matches([' ', '\t']).into()))
}

/// Settles what the fields decide together: the host, whether the connection goes on, and the body.
pub fn settle(request: &mut Request, body_limit: usize) -> Result<Framing, Refusal> {
    let host = single(request, "host")?.map(str::to_string);
    match host {
        None if request.is_http_1_1 => return Err(Refusal::bad("header: host: missing")),
        Some(host) if !is_host(&host) => {
            return Err(Refusal::bad("header: host: expected a name or an address"));
        }
        // The host of the target counts more (RFC 9112 section 3.2.2).
        Some(host) if request.host.is_empty() => request.host = host,
        _ => {}
    }
    let options = request.headers("connection").flat_map(|v| v.split(','));
    let options: Vec<String> = options.map(|o| o.trim().to_ascii_lowercase()).collect();
    let has = |option: &str| options.iter().any(|o| o == option);
    request.keep_alive = !has("close") && (request.is_http_1_1 || has("keep-alive"));
    framing(request, body_limit)
}

fn framing(request: &Request, body_limit: usize) -> Result<Framing, Refusal> {
    let length = single(request, "content-length")?;
    let Some(coding) = single(request, "transfer-encoding")? else {
        return Ok(Framing::Sized(match length {
            Some(length) => content_length(length, body_limit)?,
            None => 0,
        }));
    };
    // Both at once, or chunks in HTTP/1.0, is how requests are smuggled.
    if length.is_some() || !request.is_http_1_1 {
        return Err(Refusal::bad(
            "header: transfer-encoding: found beside content-length or in HTTP/1.0",
        ));
    }
    if !coding.eq_ignore_ascii_case("chunked") {
        return Err(Refusal::new(
            Status::NotImplemented,
            "header: transfer-encoding: expected chunked and nothing else",
        ));
    }
    Ok(Framing::Chunked)
}

fn content_length(text: &str, body_limit: usize) -> Result<usize, Refusal> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::bad("header: content-length: expected digits"));
    }
    let length: u64 = text
        .parse()
        .map_err(|_| Refusal::bad("header: content-length: expected a number that fits 64 bits"))?;
    match usize::try_from(length) {
        Ok(length) if length <= body_limit => Ok(length),
        _ => Err(too_large(body_limit)),
    }
}

/// A body above its limit.
pub fn too_large(body_limit: usize) -> Refusal {
    Refusal::new(
        Status::ContentTooLarge,
        format!("body: more than {body_limit} bytes"),
    )
}

/// Whether the client waits to be told before it sends the body.
pub fn expects_continue(request: &Request) -> Result<bool, Refusal> {
    // HTTP/1.0 knows no expectations (RFC 9110 section 10.1.1).
    match request.header("expect").filter(|_| request.is_http_1_1) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(true),
        Some(_) => Err(Refusal::new(
            Status::ExpectationFailed,
            "header: expect: expected 100-continue and nothing else",
        )),
    }
}

/// A field that may stand once.
fn single<'a>(request: &'a Request, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut all = request.headers(name);
    match (all.next(), all.next()) {
        (found, None) => Ok(found),
        _ => Err(Refusal::bad(format!("header: {name}: found twice"))),
    }
}
