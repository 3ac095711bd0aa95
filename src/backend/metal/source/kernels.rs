//! Functions and instances of templates to kernels, with the rules for their parameters.

use super::lint;
use super::parse::{Function, Instance, Program, attribute_at, fault, joined, split_at_commas};
use super::scan::Token;
use super::{Access, Attribute, Fault, Kernel, POSITIONS, Parameter, Shaders};
use std::collections::BTreeSet;

/// Largest index of a buffer.
const MAX_BUFFER: usize = 30;

/// Kernels with their parameters, from functions and instances.
pub(super) fn shaders(
    tokens: &[Token<'_>],
    program: Program<'_>,
    instances: &[Instance<'_>],
    faults: &mut Vec<Fault>,
) -> Shaders {
    let mut kernels: Vec<(usize, Kernel)> = Vec::new();
    let parameters: Vec<Vec<Parameter>> = program
        .functions
        .iter()
        .map(|f| {
            if f.is_kernel {
                kernel_parameters(tokens, &program, f, faults)
            } else {
                Vec::new()
            }
        })
        .collect();
    let constants = lint::constants(tokens, &program);
    let mut add = |at: usize, index: usize, name: &str, function: String| {
        let kernel = Kernel {
            name: name.to_string(),
            function,
            parameters: parameters[index].clone(),
            constants: constants[index].clone(),
        };
        kernels.push((at, kernel));
    };
    for (index, function) in program.functions.iter().enumerate() {
        if function.is_kernel && !function.is_template {
            add(
                function.name.at,
                index,
                function.name.text,
                function.name.text.to_string(),
            );
        }
    }
    let mut instantiated = BTreeSet::new();
    for instance in instances {
        let Some(first) = tokens.get(instance.function.start) else {
            continue;
        };
        let found = program
            .functions
            .iter()
            .position(|f| f.is_kernel && f.is_template && f.name.text == first.text);
        match found {
            Some(index) => {
                instantiated.insert(index);
                let function: String = tokens[instance.function.clone()]
                    .iter()
                    .map(|t| t.text)
                    .collect();
                add(first.at, index, instance.name, function);
            }
            None => faults.push(fault(
                first,
                format!("KERNEL_INSTANCE of {}", first.text),
                "a template of a kernel above it",
            )),
        }
    }
    for (index, function) in program.functions.iter().enumerate() {
        if function.is_kernel && function.is_template && !instantiated.contains(&index) {
            let found = format!("template {}", function.name.text);
            faults.push(fault(
                &function.name,
                found,
                "a KERNEL_INSTANCE of it at least",
            ));
        }
    }
    kernels.sort_by_key(|(at, _)| *at);
    let mut names = BTreeSet::new();
    for (at, kernel) in &kernels {
        if !names.insert(kernel.name.as_str()) {
            let place = tokens.iter().find(|t| t.at == *at).unwrap_or(&tokens[0]);
            faults.push(fault(
                place,
                format!("a second kernel {}", kernel.name),
                "one of each name",
            ));
        }
    }
    Shaders {
        kernels: kernels.into_iter().map(|(_, kernel)| kernel).collect(),
        args: program.args,
        constants: program.constants,
    }
}

fn kernel_parameters(
    tokens: &[Token<'_>],
    program: &Program<'_>,
    function: &Function<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Parameter> {
    let mut parameters: Vec<Parameter> = Vec::new();
    // How wide the positions are: all scalars, or vectors of one length.
    let mut width: Option<(&str, usize)> = None;
    for part in split_at_commas(&tokens[function.parameters.clone()]) {
        let attribute = (0..part.len()).find_map(|i| attribute_at(part, i));
        let name = attribute
            .as_ref()
            .and_then(|range| part.get(range.start.wrapping_sub(1)));
        let (Some(range), Some(name)) = (&attribute, name) else {
            faults.push(fault(
                &part[0],
                format!("parameter {}", joined(part)),
                "an attribute [[...]] behind its name",
            ));
            continue;
        };
        let type_tokens = &part[..range.start - 1];
        let inside = joined(&part[range.start + 2..range.end - 2]).replace(' ', "");
        let attribute = match kernel_attribute(&inside, type_tokens, program) {
            Ok(attribute) => attribute,
            Err((found, expected)) => {
                faults.push(fault(
                    name,
                    format!("parameter {} with {found}", name.text),
                    expected,
                ));
                continue;
            }
        };
        let is_taken = |p: &Parameter| match (p.attribute, attribute) {
            (Attribute::Buffer { index: a, .. }, Attribute::Buffer { index: b, .. }) => a == b,
            (a, b) => a == b,
        };
        if parameters.iter().any(is_taken) {
            faults.push(fault(
                name,
                format!("a second parameter with [[{inside}]]"),
                "one of each",
            ));
        }
        let is_position = POSITIONS
            .iter()
            .any(|(position, vector)| *vector && *position == inside);
        if is_position {
            let own = match type_tokens.last().map_or("", |t| t.text).chars().last() {
                Some(digit @ '2'..='3') => digit as usize - '0' as usize,
                _ => 1,
            };
            let (first, expected) = *width.get_or_insert((name.text, own));
            if own != expected {
                let found = format!(
                    "{} of width {own} beside {first} of width {expected}",
                    name.text
                );
                faults.push(fault(
                    name,
                    found,
                    "positions and sizes of one width in a kernel",
                ));
            }
        }
        let spaces = ["constant", "device", "const", "threadgroup"];
        let type_name: Vec<&str> = type_tokens
            .iter()
            .map(|t| t.text)
            .filter(|t| !spaces.contains(t))
            .collect();
        parameters.push(Parameter {
            name: name.text.to_string(),
            type_name: type_name.join(" "),
            attribute,
        });
    }
    if !parameters
        .iter()
        .any(|p| matches!(p.attribute, Attribute::Buffer { index: 0, .. }))
    {
        let found = format!("kernel {} without [[buffer(0)]]", function.name.text);
        faults.push(fault(
            &function.name,
            found,
            "constant ARGS & args [[buffer(0)]]",
        ));
    }
    parameters
}

/// What an attribute says of a parameter of this type, or what is wrong with them.
fn kernel_attribute(
    inside: &str,
    type_tokens: &[Token<'_>],
    program: &Program<'_>,
) -> Result<Attribute, (String, String)> {
    let words: Vec<&str> = type_tokens.iter().map(|t| t.text).collect();
    let n_pointers = words.iter().filter(|w| **w == "*").count();
    let type_text = words.join(" ");
    let wrong = |expected: &str| {
        Err((
            format!("[[{inside}]] and type {type_text}"),
            expected.to_string(),
        ))
    };
    if let Some(index) = inside
        .strip_prefix("buffer(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        let index = index.parse().ok().filter(|index| *index <= MAX_BUFFER);
        let Some(index) = index else {
            return wrong(&format!("buffer(0) to buffer({MAX_BUFFER})"));
        };
        let access = match words[..] {
            ["constant", name, "&"] if index == 0 => {
                if !program.args.iter().any(|args| args.name == name) {
                    return wrong("a structure of args.h");
                }
                Access::Constant
            }
            _ if index == 0 => return wrong("constant ARGS &"),
            ["device", "const", .., "*"] if n_pointers == 1 => Access::Read,
            ["device", .., "*"] if n_pointers == 1 && !words.contains(&"const") => Access::Write,
            _ => return wrong("device const T * or device T *"),
        };
        return Ok(Attribute::Buffer { index, access });
    }
    if inside.starts_with("threadgroup(") {
        return match words[..] {
            ["threadgroup", .., "*"] if inside == "threadgroup(0)" && n_pointers == 1 => {
                Ok(Attribute::Threadgroup)
            }
            _ => wrong("threadgroup T * with [[threadgroup(0)]]"),
        };
    }
    match POSITIONS.iter().find(|(name, _)| *name == inside) {
        None => wrong("buffer(N), threadgroup(0) or a position of a thread"),
        Some((name, is_vector)) => match words[..] {
            ["uint" | "ushort"] => Ok(Attribute::Position(name)),
            ["uint2" | "uint3" | "ushort2" | "ushort3"] if *is_vector => {
                Ok(Attribute::Position(name))
            }
            _ if *is_vector => wrong("uint, ushort, or two or three of them"),
            _ => wrong("uint or ushort"),
        },
    }
}
