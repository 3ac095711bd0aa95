//! The rules of the dialect that hold for every line. Those of declarations (args structures, parameters of kernels,
//! function constants, templates) stand where they are read, in `parse.rs` and `kernels.rs`.
//!
//! | rule | why |
//! |---|---|
//! | a pointer or reference names its address space | a compiler without address spaces takes any |
//! | threadgroup memory is the kernel's parameter only | it can be poisoned and guarded there |
//! | no `double`, float literals end with `f`, none with `h` | the GPU has no double, other compilers would use one |
//! | no recursion, no `static` in a function, no lambdas, no `if constexpr` | the language has none |
//! | no atomics of floats | their sums do not repeat |
//! | functions of a fixed list | every one has been looked up and has a twin in the shim |
//! | positions may be `uint3`, nothing else is three wide | three-wide vectors have the size of four |
//! | conditional compilation in `dialect.h` only | what is checked here is what runs there |

use super::Fault;
use super::parse::{Function, Program, attribute_at, fault, split_at_commas};
use super::scan::{Kind, Token, scan};
use std::collections::{BTreeMap, BTreeSet};

const SPACES: [&str; 4] = ["device", "constant", "threadgroup", "thread"];

const SCALARS: [&str; 10] = [
    "float", "half", "int", "uint", "short", "ushort", "char", "uchar", "long", "ulong",
];

const OTHER_TYPES: [&str; 7] = [
    "bool",
    "void",
    "auto",
    "atomic_uint",
    "atomic_int",
    "simdgroup_float8x8",
    "simdgroup_half8x8",
];

/// Words before a bracket that are no calls.
const KEYWORDS: [&str; 10] = [
    "if",
    "for",
    "while",
    "switch",
    "return",
    "sizeof",
    "decltype",
    "static_assert",
    "do",
    "else",
];

/// What kernels may call.
const FUNCTIONS: &[&str] = &[
    // numbers; exp, log, sqrt and the like in their precise form
    "abs",
    "all",
    "any",
    "as_type",
    "ceil",
    "clamp",
    "clz",
    "ctz",
    "dot",
    "exp",
    "exp2",
    "fabs",
    "floor",
    "fma",
    "isinf",
    "isnan",
    "ldexp",
    "log",
    "log2",
    "max",
    "min",
    "popcount",
    "pow",
    "rint",
    "rsqrt",
    "select",
    "sign",
    "sqrt",
    "tanh",
    "trunc",
    // between the lanes of a simdgroup
    "simd_all",
    "simd_any",
    "simd_broadcast",
    "simd_broadcast_first",
    "simd_max",
    "simd_min",
    "simd_prefix_exclusive_sum",
    "simd_prefix_inclusive_sum",
    "simd_shuffle",
    "simd_shuffle_down",
    "simd_shuffle_up",
    "simd_shuffle_xor",
    "simd_sum",
    "make_filled_simdgroup_matrix",
    "simdgroup_load",
    "simdgroup_multiply",
    "simdgroup_multiply_accumulate",
    "simdgroup_store",
    // between threads
    "simdgroup_barrier",
    "threadgroup_barrier",
    "atomic_fetch_add_explicit",
    "atomic_fetch_and_explicit",
    "atomic_fetch_max_explicit",
    "atomic_fetch_min_explicit",
    "atomic_fetch_or_explicit",
    "atomic_fetch_sub_explicit",
    "atomic_exchange_explicit",
    "atomic_load_explicit",
    "atomic_store_explicit",
];

/// Words with no place in kernels, and what to write instead.
const WORDS: &[(&str, &str)] = &[
    ("double", "float"),
    ("atomic_float", "sums in a fixed order"),
    ("size_t", "uint or ulong"),
    ("std", "names of metal"),
    ("goto", "loops"),
    ("new", "threadgroup memory of the kernel"),
    ("delete", "threadgroup memory of the kernel"),
    ("throw", "a value"),
    ("try", "a value"),
    ("virtual", "templates"),
    ("asm", "the language"),
    ("thread_local", "variables of the function"),
    ("volatile", "atomics"),
    ("__METAL_VERSION__", "it in dialect.h only"),
];

/// Adds the breaches of a text.
pub(super) fn check(tokens: &[Token<'_>], program: &Program<'_>, faults: &mut Vec<Fault>) {
    words(tokens, faults);
    address_spaces(tokens, program, faults);
    attributes(tokens, program, faults);
    directives(tokens, faults);
    for function in &program.functions {
        parameters_name_their_space(tokens, function, faults);
        body(tokens, program, function, faults);
    }
    recursion(tokens, program, faults);
}

fn is_vector(word: &str) -> bool {
    word.strip_suffix(['2', '3', '4'])
        .is_some_and(|base| base == "bool" || SCALARS.contains(&base))
}

fn is_type(word: &str, program: &Program<'_>) -> bool {
    SCALARS.contains(&word)
        || OTHER_TYPES.contains(&word)
        || is_vector(word)
        || program.types.contains(word)
}

fn words(tokens: &[Token<'_>], faults: &mut Vec<Fault>) {
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Number => faults.extend(number(token)),
            Kind::Word => {
                if let Some((word, instead)) = WORDS.iter().find(|(word, _)| token.is(word)) {
                    faults.push(fault(token, *word, *instead));
                }
                let is_three = token.text.ends_with('3') && is_vector(token.text);
                if is_three && !matches!(token.text, "uint3" | "ushort3") {
                    faults.push(fault(token, token.text, "vectors of two or four"));
                }
                let next = tokens.get(i + 1);
                if is_three && next.is_some_and(|t| t.is("*")) {
                    faults.push(fault(
                        token,
                        format!("{} *", token.text),
                        "memory of scalars, or vectors of two or four",
                    ));
                }
                if token.is("atomic") && tokens.get(i + 2).is_some_and(|t| t.is("float")) {
                    faults.push(fault(token, "atomic<float>", "sums in a fixed order"));
                }
                if token.is("if") && next.is_some_and(|t| t.is("constexpr")) {
                    faults.push(fault(
                        token,
                        "if constexpr",
                        "if; a constant condition costs nothing",
                    ));
                }
            }
            // An index follows a name or a bracket.
            Kind::Sign if token.is("[") => {
                let before = i.checked_sub(1).map(|i| tokens[i]);
                let is_index = before.is_some_and(|t| {
                    t.kind == Kind::Word && !t.is("return") || t.is("]") || t.is(")") || t.is("[")
                });
                if !is_index && attribute_at(tokens, i).is_none() {
                    faults.push(fault(token, "a lambda", "a function"));
                }
            }
            _ => {}
        }
    }
}

fn number(token: &Token<'_>) -> Option<Fault> {
    let text = token.text.to_ascii_lowercase();
    if text.starts_with("0x") {
        return None;
    }
    if text.ends_with('h') {
        return Some(fault(token, token.text, "a float literal, then (half)"));
    }
    let is_float = text.contains('.') || text.contains('e');
    (is_float && !text.ends_with('f')).then(|| {
        fault(
            token,
            token.text,
            format!("{}f: without f it is a double", token.text),
        )
    })
}

/// `float *` anywhere but behind an address space.
fn address_spaces(tokens: &[Token<'_>], program: &Program<'_>, faults: &mut Vec<Fault>) {
    for (i, token) in tokens.iter().enumerate() {
        if token.kind != Kind::Word || !is_type(token.text, program) {
            continue;
        }
        let next = tokens[i + 1..].iter().find(|t| !t.is("const"));
        let Some(sign) = next.filter(|t| t.is("*") || t.is("&")) else {
            continue;
        };
        let before = tokens[..i].iter().rev().find(|t| !t.is("const"));
        if !before.is_some_and(|t| SPACES.iter().any(|space| t.is(space))) {
            let found = format!("{} {} without an address space", token.text, sign.text);
            faults.push(fault(
                token,
                found,
                "device, constant, threadgroup or thread before the type",
            ));
        }
    }
}

/// Kernel parameters have attributes; nothing else has.
fn attributes(tokens: &[Token<'_>], program: &Program<'_>, faults: &mut Vec<Fault>) {
    for (i, token) in tokens.iter().enumerate() {
        let in_kernel = program
            .functions
            .iter()
            .any(|f| f.is_kernel && f.parameters.contains(&i));
        if !in_kernel && attribute_at(tokens, i).is_some() {
            faults.push(fault(
                token,
                "[[...]]",
                "attributes on parameters of kernels only",
            ));
        }
    }
}

fn directives(tokens: &[Token<'_>], faults: &mut Vec<Fault>) {
    let mut macros = BTreeMap::new();
    let directives = tokens.iter().filter(|t| t.kind == Kind::Directive);
    for token in directives.filter(|t| t.file != "dialect.h") {
        let (word, rest) = token
            .text
            .split_once(char::is_whitespace)
            .unwrap_or((token.text, ""));
        let rest = rest.trim();
        match word {
            "include" if rest == "<metal_stdlib>" => {}
            "pragma" if rest.starts_with("unroll") => {}
            "define" => {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                let (name, value) = rest.split_at(end);
                if value.starts_with('(') {
                    faults.push(fault(
                        token,
                        format!("macro {name}(...)"),
                        "a function; macros with arguments in dialect.h only",
                    ));
                }
                // The place of the macro, not of its parts.
                let parts = scan(token.file, value);
                let moved: Vec<Token<'_>> = parts
                    .into_iter()
                    .map(|part| Token {
                        line: token.line,
                        ..part
                    })
                    .collect();
                words(&moved, faults);
                if let Some(other) = macros.insert(name, token) {
                    let found =
                        format!("a second macro {name}, after {}:{}", other.file, other.line);
                    faults.push(fault(
                        token,
                        found,
                        "one of each name: all sources are one text",
                    ));
                }
            }
            _ => faults.push(fault(
                token,
                format!("#{}", token.text),
                "#define NAME value, #pragma unroll; other directives in dialect.h only",
            )),
        }
    }
}

fn parameters_name_their_space(
    tokens: &[Token<'_>],
    function: &Function<'_>,
    faults: &mut Vec<Fault>,
) {
    for part in split_at_commas(&tokens[function.parameters.clone()]) {
        let sign = part.iter().position(|t| t.is("*") || t.is("&"));
        let is_named = sign.is_none_or(|end| {
            part[..end]
                .iter()
                .any(|t| SPACES.iter().any(|space| t.is(space)))
        });
        if !is_named {
            let text: Vec<&str> = part.iter().map(|t| t.text).collect();
            faults.push(fault(
                &part[0],
                format!("parameter {} without an address space", text.join(" ")),
                "device, constant, threadgroup or thread",
            ));
        }
    }
}

/// What only the inside of a function may not have.
fn body(
    tokens: &[Token<'_>],
    program: &Program<'_>,
    function: &Function<'_>,
    faults: &mut Vec<Fault>,
) {
    let body = &tokens[function.body.clone()];
    for (i, token) in body
        .iter()
        .enumerate()
        .filter(|(_, t)| t.kind == Kind::Word)
    {
        let next = body.get(i + 1);
        if token.is("static") {
            faults.push(fault(
                token,
                "static in a function",
                "a variable, or constant at program scope",
            ));
        }
        if token.is("threadgroup") {
            let mut after = body[i + 1..].iter().filter(|t| !t.is("const"));
            let is_pointer = after.nth(1).is_some_and(|t| t.is("*") || t.is("&"));
            if !is_pointer {
                faults.push(fault(
                    token,
                    "a variable in threadgroup memory",
                    "a part of the parameter with [[threadgroup(0)]]",
                ));
            }
        }
        let is_name = !KEYWORDS.contains(&token.text) && !is_type(token.text, program);
        if !is_name || !next.is_some_and(|t| t.is("(")) {
            continue;
        }
        let before = i.checked_sub(1).map(|i| body[i]);
        let is_method = before.is_some_and(|t| t.is(".") || t.is(">") && body[i - 2].is("-"));
        let own = program.functions.iter().find(|f| f.name.text == token.text);
        if is_method {
            faults.push(fault(
                token,
                format!("method {}()", token.text),
                "functions",
            ));
        } else if own.is_some_and(|f| f.is_kernel) {
            faults.push(fault(
                token,
                format!("a call of kernel {}", token.text),
                "calls of functions",
            ));
        } else if own.is_none() && !FUNCTIONS.contains(&token.text) {
            let expected = "a function of these sources or of the list in source/lint.rs";
            faults.push(fault(token, format!("{}()", token.text), expected));
        }
    }
}

/// For each function, the functions that it calls by name.
fn calls<'p>(tokens: &[Token<'_>], program: &'p Program<'_>) -> Vec<BTreeSet<&'p str>> {
    let functions = program.functions.iter().filter(|f| !f.is_kernel);
    let names: BTreeMap<&str, bool> = functions.map(|f| (f.name.text, f.is_template)).collect();
    let of = |function: &Function<'_>| {
        let pairs = tokens[function.body.clone()].windows(2);
        let called = pairs.filter_map(|pair| {
            let (name, is_template) = names.get_key_value(pair[0].text)?;
            (pair[1].is("(") || *is_template && pair[1].is("<")).then_some(*name)
        });
        called.collect()
    };
    program.functions.iter().map(of).collect()
}

/// For each function, the names of all functions that it reaches by calls.
fn reached<'p>(tokens: &[Token<'_>], program: &'p Program<'_>) -> Vec<BTreeSet<&'p str>> {
    let calls = calls(tokens, program);
    let of = |called: &BTreeSet<&'p str>| {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&str> = called.iter().copied().collect();
        while let Some(name) = open.pop() {
            if reached.insert(name) {
                let same_name = program.functions.iter().zip(&calls);
                let same_name = same_name.filter(|(f, _)| f.name.text == name);
                open.extend(same_name.flat_map(|(_, called)| called));
            }
        }
        reached
    };
    calls.iter().map(of).collect()
}

fn recursion(tokens: &[Token<'_>], program: &Program<'_>, faults: &mut Vec<Fault>) {
    for (function, reached) in program.functions.iter().zip(reached(tokens, program)) {
        if !function.is_kernel && reached.contains(function.name.text) {
            let found = format!("{} calls a function of its own name", function.name.text);
            faults.push(fault(
                &function.name,
                found,
                "no recursion; another name for another function",
            ));
        }
    }
}

/// For each function, the indices of the function constants that it and those it calls read, ascending.
pub(super) fn constants(tokens: &[Token<'_>], program: &Program<'_>) -> Vec<Vec<u32>> {
    let of = |(function, reached): (&Function<'_>, BTreeSet<&str>)| {
        let functions = program.functions.iter();
        let functions = functions
            .filter(|f| reached.contains(f.name.text))
            .chain([function]);
        let bodies: Vec<&[Token<'_>]> = functions.map(|f| &tokens[f.body.clone()]).collect();
        let is_read = |name: &str| bodies.iter().any(|body| body.iter().any(|t| t.is(name)));
        let read = program.constants.iter().filter(|c| is_read(&c.name));
        let mut indices: Vec<u32> = read.map(|c| c.index).collect();
        indices.sort_unstable();
        indices
    };
    program
        .functions
        .iter()
        .zip(reached(tokens, program))
        .map(of)
        .collect()
}
