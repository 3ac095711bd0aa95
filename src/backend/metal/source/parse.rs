//! The flat text to what it declares. Everything that does not read as a declaration of our dialect is a fault.

use super::kernels;
use super::lint;
use super::scan::{Kind, Token, scan};
use super::{ArgsStruct, Fault, Field, FunctionConstant, Shaders};
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes that `setBytes` takes.
const MAX_ARGS: usize = 4096;

/// What the flat text declares.
///
/// Errors: each breach of the dialect, see `lint.rs`.
pub fn parse(text: &str) -> Result<Shaders, Vec<Fault>> {
    let tokens = scan("infall.metal", text);
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        program: Program::default(),
        instances: Vec::new(),
        faults: Vec::new(),
    };
    parser.items();
    let Parser {
        program,
        instances,
        mut faults,
        ..
    } = parser;
    lint::check(&tokens, &program, &mut faults);
    let shaders = kernels::shaders(&tokens, program, &instances, &mut faults);
    // A place where the reader lost its way says the same several times.
    faults.dedup();
    if faults.is_empty() {
        Ok(shaders)
    } else {
        Err(faults)
    }
}

/// The text for a C++ compiler: attributes are blanks, everything else stays in its column.
pub fn blanked(text: &str) -> String {
    let tokens = scan("", text);
    let mut blanked = String::with_capacity(text.len());
    let mut copied = 0;
    let mut i = 0;
    while i < tokens.len() {
        i += 1;
        let Some(range) = attribute_at(&tokens, i - 1) else {
            continue;
        };
        let (start, end) = (tokens[range.start].at, tokens[range.end - 1].at + 1);
        blanked.push_str(&text[copied..start]);
        blanked.extend(
            text[start..end]
                .chars()
                .map(|c| if c == '\n' { c } else { ' ' }),
        );
        copied = end;
        i = range.end;
    }
    blanked.push_str(&text[copied..]);
    blanked
}

/// The tokens of `[[...]]` that begins at token `i`.
pub(super) fn attribute_at(tokens: &[Token<'_>], i: usize) -> Option<Range<usize>> {
    let double = |i: usize, sign: &str| {
        tokens
            .get(i + 1)
            .is_some_and(|next| tokens[i].is(sign) && next.is(sign) && next.at == tokens[i].at + 1)
    };
    if !double(i, "[") {
        return None;
    }
    let end = (i + 2..tokens.len()).find(|&j| double(j, "]"))?;
    Some(i..end + 2)
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Program<'a> {
    pub(super) functions: Vec<Function<'a>>,
    /// Structures, names given by `using`, parameters of templates.
    pub(super) types: BTreeSet<&'a str>,
    pub(super) constants: Vec<FunctionConstant>,
    pub(super) args: Vec<ArgsStruct>,
}

/// A function or kernel; ranges are of tokens.
pub(super) struct Function<'a> {
    pub(super) name: Token<'a>,
    pub(super) is_kernel: bool,
    pub(super) is_template: bool,
    pub(super) parameters: Range<usize>,
    pub(super) body: Range<usize>,
}

/// `KERNEL_INSTANCE("name", function)`
pub(super) struct Instance<'a> {
    pub(super) name: &'a str,
    pub(super) function: Range<usize>,
}

struct Parser<'a, 't> {
    tokens: &'t [Token<'a>],
    at: usize,
    program: Program<'a>,
    instances: Vec<Instance<'a>>,
    faults: Vec<Fault>,
}

pub(super) fn fault(
    at: &Token<'_>,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> Fault {
    Fault {
        file: at.file.to_string(),
        line: at.line,
        found: found.into(),
        expected: expected.into(),
    }
}

/// Tokens as text.
pub(super) fn joined(tokens: &[Token<'_>]) -> String {
    let texts: Vec<&str> = tokens.iter().map(|t| t.text).collect();
    texts.join(" ")
}

impl<'a> Parser<'a, '_> {
    fn is(&self, text: &str) -> bool {
        self.tokens.get(self.at).is_some_and(|t| t.is(text))
    }

    /// From the bracket at `open` to the one that closes it; angle brackets count between `<` and `>` only.
    fn balanced(&self, open: usize) -> Range<usize> {
        let (opening, closing) = match self.tokens[open].text {
            "(" => ("(", ")"),
            "{" => ("{", "}"),
            _ => ("<", ">"),
        };
        let mut depth = 0;
        for (i, token) in self.tokens.iter().enumerate().skip(open) {
            depth += usize::from(token.is(opening));
            depth -= usize::from(token.is(closing));
            if depth == 0 {
                return open..i + 1;
            }
        }
        open..self.tokens.len()
    }

    /// What is between two brackets.
    fn inside(range: &Range<usize>) -> Range<usize> {
        range.start + 1..(range.end - 1).max(range.start + 1)
    }

    /// To the first of `;` and `{`, past `(...)`.
    fn end_of_head(&self) -> usize {
        let mut i = self.at;
        while i < self.tokens.len() && !self.tokens[i].is(";") && !self.tokens[i].is("{") {
            i = if self.tokens[i].is("(") {
                self.balanced(i).end
            } else {
                i + 1
            };
        }
        i
    }

    /// Past the next `;` outside braces.
    fn skip_statement(&mut self) {
        while self.at < self.tokens.len() && !self.is(";") {
            self.at = if self.is("{") {
                self.balanced(self.at).end
            } else {
                self.at + 1
            };
        }
        self.at += 1;
    }

    fn items(&mut self) {
        let mut is_template = false;
        while let Some(&token) = self.tokens.get(self.at) {
            if token.kind == Kind::Directive || token.is(";") {
                self.at += 1;
                continue;
            }
            match token.text {
                "template" => {
                    self.template();
                    is_template = true;
                    continue;
                }
                "KERNEL_INSTANCE" => self.instance(),
                "FUNCTION_CONSTANT" => self.function_constant(),
                "struct" => self.structure(),
                "using" | "typedef" | "enum" | "static_assert" => {
                    if let (true, Some(name)) = (token.is("using"), self.tokens.get(self.at + 1)) {
                        self.program.types.insert(name.text);
                    }
                    self.skip_statement();
                }
                _ => self.function_or_variable(is_template),
            }
            is_template = false;
        }
    }

    /// `template <typename T, uint N>`: the words before `,` and `>` are its parameters.
    fn template(&mut self) {
        self.at += 1;
        if !self.is("<") {
            return;
        }
        let range = self.balanced(self.at);
        for pair in self.tokens[range.clone()].windows(2) {
            if pair[0].kind == Kind::Word && (pair[1].is(",") || pair[1].is(">")) {
                self.program.types.insert(pair[0].text);
            }
        }
        self.at = range.end;
    }

    fn instance(&mut self) {
        let start = self.tokens[self.at];
        let end = self.end_of_head_of_macro();
        let inside = self.at + 2..end.saturating_sub(1);
        self.at = end;
        let name = self
            .tokens
            .get(inside.start)
            .filter(|t| t.kind == Kind::Text);
        let comma = self.tokens.get(inside.start + 1).is_some_and(|t| t.is(","));
        match name {
            Some(name) if comma => self.instances.push(Instance {
                name: name.text.trim_matches('"'),
                function: inside.start + 2..inside.end,
            }),
            _ => self.faults.push(fault(
                &start,
                "KERNEL_INSTANCE of another form",
                "KERNEL_INSTANCE(\"name\", function<...>)",
            )),
        }
    }

    fn function_constant(&mut self) {
        let start = self.tokens[self.at];
        let end = self.end_of_head_of_macro();
        let inside: Vec<&str> = self.tokens[self.at..end].iter().map(|t| t.text).collect();
        self.at = end;
        let expected = "FUNCTION_CONSTANT(uint, NAME, index)";
        let parsed = match inside[..] {
            ["FUNCTION_CONSTANT", "(", "uint", ",", name, ",", index, ")"] => {
                index.parse().ok().map(|index| (name, index))
            }
            _ => None,
        };
        let Some((name, index)) = parsed else {
            self.faults.push(fault(&start, inside.join(" "), expected));
            return;
        };
        if let Some(other) = self
            .program
            .constants
            .iter()
            .find(|c| c.index == index || c.name == name)
        {
            let other = format!("index {} of {}", other.index, other.name);
            self.faults.push(fault(
                &start,
                format!("index {index} of {name} beside {other}"),
                "one name an index in all sources",
            ));
        }
        self.program.constants.push(FunctionConstant {
            name: name.to_string(),
            index,
        });
    }

    /// Past `NAME(...)` and the `;` is left.
    fn end_of_head_of_macro(&self) -> usize {
        match self.tokens.get(self.at + 1) {
            Some(open) if open.is("(") => self.balanced(self.at + 1).end,
            _ => self.at + 1,
        }
    }

    fn structure(&mut self) {
        let start = self.tokens[self.at];
        let head = self.end_of_head();
        let name = self.tokens.get(self.at + 1).copied().unwrap_or(start);
        self.program.types.insert(name.text);
        if !self.tokens.get(head).is_some_and(|t| t.is("{")) {
            self.faults.push(fault(
                &name,
                "a structure without members",
                "struct NAME { ... };",
            ));
            self.at = head + 1;
            return;
        }
        let body = self.balanced(head);
        let inside = Self::inside(&body);
        if start.file == "args.h" {
            self.args_struct(name, inside);
        } else {
            self.at = inside.start;
            let mut is_template = false;
            while self.at < inside.end {
                if self.is("template") {
                    self.template();
                    is_template = true;
                    continue;
                }
                let end = self.end_of_head();
                if self.tokens[self.at..end].iter().any(|t| t.is("(")) {
                    self.function_or_variable(is_template);
                } else {
                    self.skip_statement();
                }
                is_template = false;
            }
        }
        self.at = body.end;
    }

    /// Rule 3: 4- and 8-byte numbers, the largest first, without padding.
    fn args_struct(&mut self, name: Token<'a>, inside: Range<usize>) {
        let mut fields: Vec<Field> = Vec::new();
        let (mut offset, mut least) = (0, 8);
        for field in self.tokens[inside]
            .split(|t| t.is(";"))
            .filter(|f| !f.is_empty())
        {
            let size = match field[0].text {
                "uint" | "int" | "float" => 4,
                "ulong" | "long" => 8,
                _ => 0,
            };
            if field.len() != 2 || size == 0 {
                let expected = "one uint, int, float, ulong or long a line";
                self.faults.push(fault(&field[0], joined(field), expected));
                continue;
            }
            if size > least {
                let expected = "8-byte numbers before those of 4";
                self.faults.push(fault(&field[0], joined(field), expected));
            }
            least = size;
            fields.push(Field {
                name: field[1].text.to_string(),
                type_name: field[0].text.to_string(),
                offset,
            });
            offset += size;
        }
        let alignment = if fields
            .iter()
            .any(|f| matches!(f.type_name.as_str(), "ulong" | "long"))
        {
            8
        } else {
            4
        };
        if offset % alignment != 0 {
            self.faults.push(fault(
                &name,
                format!("{offset} bytes in {}", name.text),
                "a multiple of 8 beside 8-byte numbers",
            ));
        }
        if offset == 0 || offset > MAX_ARGS {
            self.faults.push(fault(
                &name,
                format!("{offset} bytes in {}", name.text),
                format!("1 to {MAX_ARGS}"),
            ));
        }
        self.program.args.push(ArgsStruct {
            name: name.text.to_string(),
            fields,
            size: offset,
        });
    }

    fn function_or_variable(&mut self, is_template: bool) {
        let start = self.at;
        let first = self.tokens[start];
        let head = self.end_of_head();
        let open = (start..head).find(|&i| self.tokens[i].is("("));
        let equals = (start..head).find(|&i| self.tokens[i].is("="));
        let is_function = open.is_some_and(|open| open > start && equals.is_none_or(|e| e > open));
        let Some(open) = open.filter(|_| is_function) else {
            self.variable(first, head);
            return;
        };
        let parameters = self.balanced(open);
        if parameters.end != head || !self.tokens.get(head).is_some_and(|t| t.is("{")) {
            let found = joined(&self.tokens[start..parameters.end.min(start + 12)]);
            self.faults.push(fault(
                &first,
                found,
                "a function with its body behind the parameters",
            ));
            self.skip_statement();
            return;
        }
        let body = self.balanced(head);
        self.at = body.end;
        let is_kernel = first.is("kernel");
        let words: Vec<&str> = self.tokens[start..open].iter().map(|t| t.text).collect();
        if is_kernel && (words.len() != 3 || words[1] != "void") {
            self.faults
                .push(fault(&first, words.join(" "), "kernel void NAME"));
        }
        if !is_kernel && !words.starts_with(&["static", "inline"]) {
            self.faults.push(fault(
                &first,
                words.join(" "),
                "static inline before a function, kernel before a kernel",
            ));
        }
        self.program.functions.push(Function {
            name: self.tokens[open - 1],
            is_kernel,
            is_template,
            parameters: Self::inside(&parameters),
            body: Self::inside(&body),
        });
    }

    /// At program scope: tables and numbers in constant memory.
    fn variable(&mut self, first: Token<'a>, head: usize) {
        let head = &self.tokens[self.at..head.min(self.tokens.len())];
        let head = head.split(|t| t.is("=")).next().unwrap_or(head);
        let has = |word: &str| head.iter().any(|t| t.is(word));
        if !has("constant") {
            let expected = "a kernel, function, structure or constant";
            self.faults
                .push(fault(&first, joined(&head[..head.len().min(12)]), expected));
        } else if !has("[") && !has("constexpr") {
            self.faults.push(fault(
                &first,
                joined(head),
                "constexpr constant before a number",
            ));
        }
        self.skip_statement();
    }
}

/// Splits at commas outside brackets.
pub(super) fn split_at_commas<'a, 't>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "<" | "[" | "{" => depth += 1,
            ")" | ">" | "]" | "}" => depth = depth.saturating_sub(1),
            "," if depth == 0 => {
                parts.push(&tokens[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}
