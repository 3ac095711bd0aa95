//! Tags of the tool markup as models write them: to the letter, or nearly so.
//!
//! ```text
//! <｜DSML｜invoke name="f">      <|DSML|invoke name='f' id=1>      </｜DSML｜param >      </parameter>
//! ```

use super::dsml::{self, NAME_END};

/// Bytes of a tag at most; what is longer is none.
const TAG_BYTES: usize = 4096;

/// Names of tags that are known without the mark.
const UNMARKED: [&str; 4] = ["parameter", "invoke", "tool_calls", "function_calls"];

/// What a text begins with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scan<T> {
    /// This.
    Found(T),
    /// What may become it with more text.
    Begun,
    /// Something else.
    Other,
}

/// What a tag is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All calls.
    Block,
    /// One call.
    Invoke,
    /// A parameter.
    Parameter,
    /// It cannot be told.
    Unknown,
}

/// A tag.
#[derive(Clone, Debug, PartialEq)]
pub struct Tag {
    /// Its bytes.
    pub len: usize,
    /// What it is for.
    pub kind: Kind,
    /// Whether it is a closing tag.
    pub is_end: bool,
    /// Whether it ends itself, as `<x/>` does.
    pub is_empty: bool,
    /// Whether it has the mark.
    pub is_marked: bool,
    /// Whether it follows the markup to the letter.
    pub is_exact: bool,
    /// Its `name`, or what stands in its place.
    pub name: Option<String>,
    /// Its `string`.
    pub is_text: Option<bool>,
}

impl Tag {
    /// Whether calls begin with it: it is marked and opens all calls, or one by its name.
    pub fn opens_calls(&self) -> bool {
        let kind = self.kind == Kind::Block || self.opens(Kind::Invoke);
        kind && self.is_marked && !self.is_end
    }

    /// Whether it opens a `kind` of which the name is given.
    pub fn opens(&self, kind: Kind) -> bool {
        self.kind == kind && !self.is_end && self.name.as_ref().is_some_and(|n| !n.is_empty())
    }

    /// Whether it closes a `kind`.
    pub fn closes(&self, kind: Kind) -> bool {
        self.kind == kind && self.is_end
    }
}

/// The tag that `text` begins with. With `is_last`, no more text comes.
pub fn read(text: &str, is_last: bool) -> Scan<Tag> {
    let (head, is_end, is_marked) = match head(text) {
        Scan::Found(found) => found,
        Scan::Begun if !is_last => return Scan::Begun,
        _ => return Scan::Other,
    };
    let (end, n_end) = match end(&text[head..], is_last) {
        Scan::Found((end, n_end)) => (head + end, n_end),
        Scan::Begun => return Scan::Begun,
        Scan::Other => return Scan::Other,
    };
    let inner = text[head..end].trim_end();
    let is_empty = !is_end && inner.ends_with('/');
    let inner = inner.strip_suffix('/').unwrap_or(inner).trim_end();
    let n_element = inner
        .find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-'))
        .unwrap_or(inner.len());
    let (element, attributes) = inner.split_at(n_element);
    let (mut name, mut is_text) = (None, None);
    for_each_attribute(attributes, &mut |key, value| match key {
        "string" => {
            is_text = match value.to_ascii_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            };
        }
        "type" if is_text.is_none() => is_text = Some(value == "string"),
        "name" => name = Some(NAME_END.unescape(value)),
        // `<invoke="f">`, `<invoke f>`, `<parameter key="k">`
        "" | "key" if name.is_none() => name = Some(NAME_END.unescape(value)),
        _ => {}
    });
    let kind = kind(element, is_end, name.is_some());
    let whole = &text[..end + n_end];
    let is_exact = match (kind, is_end) {
        (Kind::Block, false) => whole == dsml::BLOCK,
        (Kind::Block, true) => whole == dsml::END_BLOCK,
        (Kind::Invoke, true) => whole == dsml::END_INVOKE.trim_end(),
        (Kind::Parameter, true) => whole == dsml::END_PARAMETER,
        (Kind::Invoke, false) => is_between(whole, dsml::INVOKE, &[dsml::END_NAME.trim_end()]),
        (Kind::Parameter, false) => {
            let ends = [dsml::TEXT_VALUE, dsml::JSON_VALUE];
            is_between(whole, dsml::PARAMETER, &ends)
        }
        (Kind::Unknown, _) => false,
    };
    Scan::Found(Tag {
        len: end + n_end,
        kind,
        is_end,
        is_empty,
        is_marked,
        is_exact,
        name,
        is_text,
    })
}

/// Whether a tag is nothing but a name in quotes between `begin` and one of `ends`.
fn is_between(tag: &str, begin: &str, ends: &[&str]) -> bool {
    let rest = tag.strip_prefix(begin).unwrap_or("\"");
    let end = rest.find('"').map_or("", |at| &rest[at..]);
    ends.contains(&end)
}

/// What stands in front of a tag's name: its bytes, whether it is of a closing tag, and whether the mark is in it.
fn head(text: &str) -> Scan<(usize, bool, bool)> {
    match mark(text) {
        Scan::Found((n, is_end)) => Scan::Found((n, is_end, true)),
        Scan::Begun => Scan::Begun,
        Scan::Other => {
            let Some(rest) = text.strip_prefix('<') else {
                return Scan::Other;
            };
            let n = 1 + usize::from(rest.starts_with('/'));
            let rest = &text[n..];
            for name in UNMARKED {
                if let Some(after) = rest.strip_prefix(name) {
                    match after.bytes().next() {
                        None => return Scan::Begun,
                        Some(b'>' | b'/' | b' ' | b'\n' | b'\t' | b'\r') => {
                            return Scan::Found((n, n > 1, false));
                        }
                        Some(_) => {}
                    }
                }
                if name.starts_with(rest) {
                    return Scan::Begun;
                }
            }
            Scan::Other
        }
    }
}

/// `<｜DSML｜` or `</｜DSML｜`, also with other bars, doubled ones, none on one side, or blanks around them: its bytes, and
/// whether it is that of a closing tag.
pub fn mark(text: &str) -> Scan<(usize, bool)> {
    let Some(rest) = text.strip_prefix('<') else {
        return Scan::Other;
    };
    let is_end = rest.starts_with('/');
    let Some((n_left, rest)) = bars(&rest[usize::from(is_end)..]) else {
        return Scan::Other;
    };
    let n = rest.len().min(NAME.len());
    match rest.get(..n) {
        Some(name) if name.eq_ignore_ascii_case(&NAME[..n]) => {}
        _ => return Scan::Other,
    }
    if n == rest.len() {
        return Scan::Begun;
    }
    match bars(&rest[n..]) {
        Some((n_right, rest)) if n_left + n_right > 0 => {
            Scan::Found((text.len() - rest.len(), is_end))
        }
        Some((_, "")) => Scan::Begun,
        _ => Scan::Other,
    }
}

/// The bytes of bars with which a text begins, and what stands behind them and the blanks around them; `None` for too many.
fn bars(text: &str) -> Option<(usize, &str)> {
    let after = text.trim_start_matches(' ');
    let rest = after.trim_start_matches(BARS);
    let behind = rest.trim_start_matches(' ');
    let n_blanks = (text.len() - after.len()).max(rest.len() - behind.len());
    let n_bars = after.len() - rest.len();
    (n_blanks <= MOST_BLANKS && n_bars <= MOST_BAR_BYTES).then_some((n_bars, behind))
}

/// What stands between the bars.
const NAME: &str = "DSML";

/// The bar of the mark, the one on keyboards, and the one of boxes.
const BARS: [char; 3] = ['｜', '|', '│'];

/// Blanks in front of bars or behind them, and bytes of bars side by side, that are taken.
const MOST_BLANKS: usize = 3;
const MOST_BAR_BYTES: usize = 2 * '｜'.len_utf8();

/// Whether a text that begins with `<` is, as far as it goes, as only the mark is written.
pub fn is_like_mark(text: &str) -> bool {
    let rest = text.trim_start_matches(['<', '/', ' ']);
    rest.starts_with('｜') && mark(text) != Scan::Other
}

/// The place of the `>` that ends a tag, and its length: the first one outside quotes, or the first of all if quotes are not
/// closed as they should be. Where the next tag begins in front of it, it is missing.
fn end(text: &str, is_last: bool) -> Scan<(usize, usize)> {
    let bytes = &text.as_bytes()[..text.len().min(TAG_BYTES)];
    let is_cut = is_last || bytes.len() == TAG_BYTES;
    let first = memchr::memchr2(b'>', b'<', bytes);
    let found = |at: usize| Scan::Found((at, usize::from(bytes[at] == b'>')));
    let (mut quote, mut is_value) = (None, false);
    // Nothing can be told without one of them.
    let Some(first) = first else {
        return if is_cut { Scan::Other } else { Scan::Begun };
    };
    for (i, byte) in bytes.iter().enumerate() {
        match quote {
            Some(open) if *byte == open => {
                (quote, is_value) = (None, false);
                match bytes.get(i + 1) {
                    None | Some(b'>' | b'<' | b'/' | b' ' | b'\n' | b'\t' | b'\r') => {}
                    Some(_) => return found(first),
                }
            }
            Some(_) => {}
            None if matches!(byte, b'>' | b'<') => return found(i),
            None if is_value && matches!(byte, b'"' | b'\'') => quote = Some(*byte),
            None => is_value = *byte == b'=' || is_value && byte.is_ascii_whitespace(),
        }
    }
    if is_cut { found(first) } else { Scan::Begun }
}

/// Attributes as `key="value"`, `key='value'`, `key=value` or `value`, whose key is empty. Quotes that are not closed end
/// with the tag.
fn for_each_attribute(text: &str, each: &mut dyn FnMut(&str, &str)) {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let n = rest
            .find(|c: char| c == '=' || c.is_whitespace())
            .unwrap_or(rest.len());
        let (key, after) = rest.split_at(n);
        rest = after.trim_start();
        let Some(value) = rest.strip_prefix('=') else {
            each("", key.trim_matches(['"', '\'']));
            continue;
        };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, after) = match quote {
            Some(quote) => {
                let value = &value[1..];
                value.split_once(quote).unwrap_or((value, ""))
            }
            None => value.split_once(char::is_whitespace).unwrap_or((value, "")),
        };
        each(key, value);
        rest = after.trim_start();
    }
}

/// What an element is for: by its name, which may be misspelt, and by whether an opening tag has a name.
fn kind(element: &str, is_end: bool, has_name: bool) -> Kind {
    match element.to_ascii_lowercase().as_str() {
        e if e.starts_with("param") || e.starts_with("arg") => Kind::Parameter,
        e if e.starts_with("inv") => Kind::Invoke,
        e if e.contains("calls") => Kind::Block,
        e if e.contains("call") || e == "function" || e == "tool" => match has_name && !is_end {
            true => Kind::Invoke,
            false => Kind::Block,
        },
        _ => Kind::Unknown,
    }
}

/// An opening tag's element.
pub fn element(tag: &str) -> &str {
    let Scan::Found((n, ..)) = head(tag) else {
        return "";
    };
    let rest = &tag[n..];
    let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-'));
    &rest[..end.unwrap_or(rest.len())]
}

/// What closes an opening tag that is written like this.
pub fn closer(tag: &str) -> String {
    let Scan::Found((n, ..)) = head(tag) else {
        return dsml::END_PARAMETER.to_owned();
    };
    format!("</{}{}>", &tag[1..n], element(tag))
}
