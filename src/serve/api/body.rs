//! The body of a request as clients send it, made into text that a JSON parser takes. A client cannot change what it said
//! before, so half a character in an old turn must not end a conversation.
//!
//! ```text
//! byte order mark          dropped
//! bytes that are no UTF-8  U+FFFD
//! half of a UTF-16 pair    U+FFFD (see `json::source::whole_characters`)
//! file in base64           "", if it is long: a model of text has no use for it, and some make up most of a body
//! ```

use crate::json::source::whole_characters;
use std::borrow::Cow;

/// A shorter string in base64 stays as it is.
const LONG: usize = 4096;

/// Names under which the APIs carry files.
const FILES: [&str; 6] = ["data", "url", "image_url", "file_data", "b64_json", "image"];

/// The name under which Ollama's API carries a list of them.
const LIST_OF_FILES: &str = "images";

/// The text of a body.
pub fn text(body: &[u8]) -> Cow<'_, str> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = String::from_utf8_lossy(body);
    let text = match text {
        Cow::Borrowed(text) => without_files(text),
        Cow::Owned(text) => Cow::Owned(without_files(&text).into_owned()),
    };
    match text {
        Cow::Borrowed(text) => whole_characters(text),
        Cow::Owned(text) => Cow::Owned(whole_characters(&text).into_owned()),
    }
}

/// The text with empty strings in the place of long files.
fn without_files(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    // What is copied, where the search goes on, and the last string that ended, which may be a name.
    let (mut copied, mut at, mut last) = (0, 0, 0..0);
    let mut in_list = false;
    while let Some(start) = memchr::memchr(b'"', &bytes[at..]).map(|n| at + n + 1) {
        let Some(end) = end_of_string(bytes, start) else {
            break;
        };
        let between = bytes[last.end..start].iter();
        let between = between.filter(|byte| !byte.is_ascii_whitespace());
        let name = &text[last.clone()];
        in_list = (in_list && between.clone().eq(b"\",\""))
            || (name == LIST_OF_FILES && between.clone().eq(b"\":[\""));
        let is_value = between.eq(b"\":\"") && FILES.contains(&name);
        if end - start > LONG && (is_value || in_list) && is_file(&bytes[start..end]) {
            out.push_str(&text[copied..start]);
            copied = end;
        }
        (last, at) = (start..end, end + 1);
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Where the closing quote of a string is whose text begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += memchr::memchr2(b'"', b'\\', &bytes[at..])?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at = (at + 2).min(bytes.len());
    }
}

/// Whether a string is base64, with or without the head of a `data:` URL.
fn is_file(string: &[u8]) -> bool {
    let head = string.iter().take(256).position(|byte| *byte == b',');
    let data = match head {
        Some(comma) if string.starts_with(b"data:") => &string[comma + 1..],
        _ => string,
    };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
    // JSON may write `/` as `\/`, and encoders break lines.
    let mut bytes = data.iter();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'\\' => bytes.next().is_some_and(|next| b"/nr".contains(next)),
            byte => is_base64(byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_real_clients_become_json() {
        let whole: &[u8] = "{\"a\":\"é👍\\ud83d\\udc4d\\\\ud83d\"}".as_bytes();
        assert!(matches!(text(whole), Cow::Borrowed(_)));
        for (body, expected) in [
            (&b"\xEF\xBB\xBF{}"[..], "{}"),
            (
                b"{\"a\":\"x\xED\xA0\xBDy\xff\"}",
                "{\"a\":\"x\u{FFFD}\u{FFFD}\u{FFFD}y\u{FFFD}\"}",
            ),
            (b"[\"\\ud83d\",\"\\uDC4Dx\"]", "[\"\\ufffd\",\"\\ufffdx\"]"),
        ] {
            assert_eq!(text(body), expected);
        }
    }

    #[test]
    fn long_files_are_left_out_and_nothing_else() {
        let base64 = "QUJD".repeat(2000);
        let (url, lines) = (
            format!("data:image/png;base64,{base64}"),
            format!("{base64}\\n{base64}\\/=="),
        );
        for (name, value, stays) in [
            ("data", &base64, false),
            ("url", &url, false),
            ("image_url", &lines, false),
            ("text", &base64, true),
            ("data", &format!("{base64} "), true),
            ("data", &format!("{base64}\\\""), true),
            ("url", &"QUJD".repeat(2), true),
        ] {
            let body = format!(
                "[{{\"type\" : \"x\", \"{name}\" :\n\"{value}\",\"after\":\"\\\"data\\\":\"}}, \"{base64}\"]"
            );
            let expected = if stays {
                body.clone()
            } else {
                body.replacen(value, "", 1)
            };
            assert_eq!(text(body.as_bytes()), expected, "{name}");
        }
        let body = format!(
            "{{\"images\": [\"{base64}\",\n\"QQ==\", \"{base64}\"], \"a\":[\"{base64}\", \"images\", \"{base64}\"]}}"
        );
        let expected = body.replacen(&base64, "", 2);
        assert_eq!(text(body.as_bytes()), expected);
        // Broken bodies are for the parser.
        for body in ["\"", "{\"data\":\"", "\"\\", "\"\\\""] {
            assert_eq!(text(body.as_bytes()), body);
        }
    }
}
