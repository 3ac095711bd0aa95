//! Text to tokens. Comments vanish; a preprocessor line is one token; `#line` decides the places of what follows.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name or keyword.
    Word,
    /// A number with its suffix.
    Number,
    /// A string or character with its quotes.
    Text,
    /// A preprocessor line without the `#`.
    Directive,
    /// One character.
    Sign,
}

/// A piece of the text.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// As written.
    pub text: &'a str,
    /// First byte in the text.
    pub at: usize,
    /// File that `#line` named last.
    pub file: &'a str,
    /// Line in that file.
    pub line: usize,
}

impl Token<'_> {
    /// Whether the token is this sign or word.
    pub fn is(&self, text: &str) -> bool {
        self.text == text && !matches!(self.kind, Kind::Text | Kind::Directive)
    }
}

/// The tokens of a text that begins in `file`.
pub fn scan<'a>(file: &'a str, text: &'a str) -> Vec<Token<'a>> {
    let bytes = text.as_bytes();
    let (mut file, mut line, mut at) = (file, 1, 0);
    let mut at_line_start = true;
    let mut tokens = Vec::new();
    while at < bytes.len() {
        let rest = &text[at..];
        let (kind, len) = match bytes[at] {
            b'\n' => {
                (line, at, at_line_start) = (line + 1, at + 1, true);
                continue;
            }
            c if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if rest.starts_with("//") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                let len = rest.find("*/").map_or(rest.len(), |end| end + 2);
                line += rest[..len].matches('\n').count();
                at += len;
                continue;
            }
            b'#' if at_line_start => {
                let len = directive_len(rest);
                if let Some((number, name)) = line_directive(&rest[1..len]) {
                    // The line after this one is `number`.
                    (file, line) = (name, number - 1);
                    at += len;
                    continue;
                }
                (Kind::Directive, len)
            }
            b'"' | b'\'' => (Kind::Text, quoted_len(rest)),
            c if c.is_ascii_alphabetic() || c == b'_' => (Kind::Word, word_len(rest)),
            c if c.is_ascii_digit() => (Kind::Number, number_len(rest)),
            b'.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                (Kind::Number, number_len(rest))
            }
            _ => (Kind::Sign, rest.chars().next().map_or(1, char::len_utf8)),
        };
        let skipped = usize::from(kind == Kind::Directive);
        tokens.push(Token {
            kind,
            text: rest[skipped..len].trim(),
            at,
            file,
            line,
        });
        line += rest[..len].matches('\n').count();
        at += len;
        at_line_start = false;
    }
    tokens
}

/// To the end of the line, or of the last line that a backslash continues; a comment ends it too.
fn directive_len(rest: &str) -> usize {
    let mut end = 0;
    loop {
        end += rest[end..].find('\n').unwrap_or(rest.len() - end);
        if end == rest.len() || !rest[..end].ends_with('\\') {
            break;
        }
        end += 1;
    }
    rest[..end].find("//").unwrap_or(end)
}

/// `line N "file"`
fn line_directive(text: &str) -> Option<(usize, &str)> {
    let (number, name) = text.trim().strip_prefix("line ")?.split_once(' ')?;
    Some((number.parse().ok()?, name.trim().trim_matches('"')))
}

fn quoted_len(rest: &str) -> usize {
    let quote = rest.as_bytes()[0];
    let mut escaped = false;
    for (i, c) in rest.bytes().enumerate().skip(1) {
        if c == b'\n' {
            return i;
        }
        if c == quote && !escaped {
            return i + 1;
        }
        escaped = c == b'\\' && !escaped;
    }
    rest.len()
}

fn word_len(rest: &str) -> usize {
    rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len())
}

fn number_len(rest: &str) -> usize {
    let is_hexadecimal = rest.starts_with("0x") || rest.starts_with("0X");
    let mut before = ' ';
    for (i, c) in rest.char_indices() {
        let is_exponent_sign =
            matches!(c, '+' | '-') && matches!(before, 'e' | 'E') && !is_hexadecimal;
        if !(c.is_ascii_alphanumeric() || c == '.' || is_exponent_sign) {
            return i;
        }
        before = c;
    }
    rest.len()
}
