//! The kernels' source as C++: attributes blanked, and at its end a launcher for each kernel and the tables of
//! `tests/metal/shim/fibres.h`.

use crate::backend::metal::source::{Attribute, Kernel, Shaders, blanked};
use std::fmt::Write as _;

/// C++ of the flat text that declares `shaders`.
pub fn cpp(text: &str, shaders: &Shaders) -> String {
    let mut cpp = format!("#line 1 \"infall.metal\"\n{}", blanked(text));
    cpp.push_str("\n#line 1 \"generated\"\nnamespace launch {\n");
    for args in &shaders.args {
        let name = &args.name;
        let _ = writeln!(cpp, "static_assert(sizeof({name}) == {}, \"\");", args.size);
        for field in &args.fields {
            let (field, offset) = (&field.name, field.offset);
            let _ = writeln!(
                cpp,
                "static_assert(__builtin_offsetof({name}, {field}) == {offset}, \"\");"
            );
        }
    }
    for (i, kernel) in shaders.kernels.iter().enumerate() {
        let arguments: Vec<String> = kernel
            .parameters
            .iter()
            .map(|p| value(p.attribute))
            .collect();
        let _ = writeln!(
            cpp,
            "static void launch_{i}(const fibres::Arguments& a) {{ (void)a; {}({}); }}",
            kernel.function,
            arguments.join(", ")
        );
        // An array has one element at least.
        let mut needs: Vec<String> = kernel.constants.iter().map(u32::to_string).collect();
        needs.push("0".to_string());
        let _ = writeln!(
            cpp,
            "static const unsigned needs_{i}[] = {{{}}};",
            needs.join(", ")
        );
    }
    cpp.push_str("}\nnamespace fibres {\nextern const Kernel kernels[] = {\n");
    for (i, kernel) in shaders.kernels.iter().enumerate() {
        let _ = writeln!(
            cpp,
            "    {{\"{}\", \"{}\", launch::launch_{i}, launch::needs_{i}, {}}},",
            kernel.name,
            access(kernel),
            kernel.constants.len()
        );
    }
    let n_kernels = shaders.kernels.len();
    let _ = writeln!(cpp, "    {{nullptr, nullptr, nullptr, nullptr, 0}}\n}};");
    let _ = writeln!(cpp, "extern const unsigned n_kernels = {n_kernels};");
    cpp.push_str("extern const Constant constants[] = {\n");
    for constant in &shaders.constants {
        let _ = writeln!(cpp, "    {{{}, &::{}}},", constant.index, constant.name);
    }
    let n_constants = shaders.constants.len();
    let _ = writeln!(cpp, "    {{0, nullptr}}\n}};");
    let _ = writeln!(
        cpp,
        "extern const unsigned n_constants = {n_constants};\n}}"
    );
    cpp
}

/// What the ABI says of a kernel's arguments: a letter a buffer, `:`, parameters in threadgroup memory.
fn access(kernel: &Kernel) -> String {
    format!("{}:{}", kernel.access(), kernel.n_threadgroup())
}

/// What a launcher hands to a parameter.
fn value(attribute: Attribute) -> String {
    match attribute {
        Attribute::Buffer { index, .. } => format!("Buffer{{a.buffers[{index}]}}"),
        Attribute::Threadgroup => "Buffer{a.shared}".to_string(),
        Attribute::Position(name) => format!("{name}()"),
    }
}
