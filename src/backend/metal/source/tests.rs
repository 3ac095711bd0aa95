use super::*;
use crate::backend::metal::args;
use crate::backend::metal::kernels::Kernel;
use crate::quant::tables;
use std::collections::BTreeMap;
use std::path::Path;

const ARGS: &str = "struct CopyArgs {\n    ulong stride;\n    uint n;\n    float scale;\n};\n";

const KERNEL: &str = "#include <metal_stdlib>
#include \"args.h\"
using namespace metal;

FUNCTION_CONSTANT(uint, FORM, 3);
FUNCTION_CONSTANT(uint, OTHER, 1);
#define WIDTH 32
constexpr constant uint HEIGHT = 4;
constant ulong TABLE[2] = { 1, 2 };

struct Twice {
    static inline float of(float x) { return FORM == 0 ? 2.0f * x : x; }
};

static inline float larger(device const float * x, thread float & y) { return max(x[0], y); }

kernel void copy(
    constant CopyArgs  & args [[buffer(0)]],
    device const float * x    [[buffer(1)]],
    device float       * y    [[buffer(3)]],
    threadgroup float  * sh   [[threadgroup(0)]],
    uint2  at   [[thread_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]])
{
    threadgroup float * mine = sh + lane;   // not a variable of its own
    float v = 0.5f;
    if (at.x < args.n) y[at.x] = larger(x + at.x, v) + as_type<float>(HEIGHT);
}

template <typename T>
kernel void apply(constant CopyArgs & args [[buffer(0)]], device float * y [[buffer(1)]], uint i [[thread_position_in_grid]])
{
    y[i] = T::of((float)i);
}
KERNEL_INSTANCE(\"apply_twice\", apply<Twice>)
";

fn files(kernel: &str) -> BTreeMap<String, String> {
    [("args.h", ARGS), ("a.metal", kernel)]
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .into()
}

fn parsed(kernel: &str) -> Result<Shaders, Vec<Fault>> {
    parse(&flatten(&files(kernel)).map_err(|fault| vec![fault])?)
}

#[test]
fn declarations_are_read() {
    let shaders = parsed(KERNEL).unwrap();
    let kernels: Vec<_> = shaders
        .kernels
        .iter()
        .map(|k| (k.name.as_str(), k.function.as_str(), k.access()))
        .collect();
    assert_eq!(
        kernels,
        [
            ("copy", "copy", "cr-w".to_string()),
            ("apply_twice", "apply<Twice>", "cw".to_string())
        ]
    );
    let copy = &shaders.kernels[0];
    assert_eq!(copy.n_threadgroup(), 1);
    let positions: Vec<_> = copy.parameters[4..]
        .iter()
        .map(|p| (p.name.as_str(), p.type_name.as_str(), p.attribute))
        .collect();
    assert_eq!(
        positions,
        [
            (
                "at",
                "uint2",
                Attribute::Position("thread_position_in_grid")
            ),
            (
                "lane",
                "ushort",
                Attribute::Position("thread_index_in_simdgroup")
            )
        ]
    );
    assert_eq!(shaders.args[0].size, 16);
    let fields: Vec<_> = shaders.args[0]
        .fields
        .iter()
        .map(|f| (f.name.as_str(), f.type_name.as_str(), f.offset))
        .collect();
    assert_eq!(
        fields,
        [
            ("stride", "ulong", 0),
            ("n", "uint", 8),
            ("scale", "float", 12)
        ]
    );
}

#[test]
fn a_kernel_knows_the_constants_it_reaches() {
    let shaders = parsed(KERNEL).unwrap();
    assert!(shaders.kernels[0].constants.is_empty());
    assert_eq!(shaders.kernels[1].constants, [3]);
    assert_eq!(shaders.constants.len(), 2);
}

#[test]
fn places_are_those_of_the_files() {
    let faults = parsed(&KERNEL.replace("0.5f", "0.5")).unwrap_err();
    assert_eq!(
        faults.iter().map(Fault::to_string).collect::<Vec<_>>(),
        ["metal-shaders/a.metal:26: found 0.5, expected 0.5f: without f it is a double"]
    );
}

#[test]
fn attributes_become_blanks_of_the_same_length() {
    let text = "kernel void f(device float * y [[buffer(1)]],\n uint i [[thread_position\n_in_grid]]) { y[a[0]] = 1; }";
    let blank = blanked(text);
    assert_eq!(
        blank,
        "kernel void f(device float * y              ,\n uint i                  \n          ) { y[a[0]] = 1; }"
    );
    assert_eq!(blank.len(), text.len());
}

#[test]
fn headers_stand_once_before_who_includes_them() {
    let mut files = files(KERNEL);
    files.insert("b.metal".to_string(), KERNEL.to_string());
    let text = flatten(&files).unwrap();
    assert_eq!(text.matches("struct CopyArgs").count(), 1);
    assert_eq!(text.matches("#include").count(), 1);
    assert!(text.find("struct CopyArgs") < text.find("kernel void"));
}

#[test]
fn only_our_headers_are_included() {
    for header in ["<simd/simd.h>", "\"../src/a.h\"", "\"a.metal\""] {
        let fault = flatten(&files(&format!("\n#include {header}\n"))).unwrap_err();
        assert_eq!(
            (fault.line, fault.found.as_str()),
            (2, format!("#include {header}").as_str())
        );
    }
}

/// Replaces a part of [`KERNEL`]; the one fault must say what is found.
fn breaks(from: &str, to: &str, found: &str) {
    assert!(KERNEL.contains(from), "{from}");
    let text = KERNEL.replacen(from, to, 1);
    let faults = parsed(&text).expect_err(to);
    let line = KERNEL[..KERNEL.find(from).unwrap()].matches('\n').count() + 1;
    let fault = faults.iter().find(|f| f.found.contains(found));
    let fault = fault.unwrap_or_else(|| panic!("{to}: {faults:?}"));
    // A fault of two places stands at the second; a missing parameter is one of the whole kernel.
    assert!(
        fault.line.abs_diff(line) <= 1,
        "{to} on line {line}: {fault}"
    );
}

/// Puts a statement into a kernel.
fn breaks_inside(statement: &str, found: &str) {
    let to = format!("float v = 0.5f; {statement}");
    breaks("float v = 0.5f;", &to, found);
}

#[test]
fn each_rule_for_parameters_of_kernels_is_checked() {
    breaks(
        "x    [[buffer(1)]]",
        "x",
        "parameter device const float * x",
    );
    breaks(
        "y    [[buffer(3)]]",
        "y    [[buffer(1)]]",
        "a second parameter with [[buffer(1)]]",
    );
    breaks(
        "y    [[buffer(3)]]",
        "y    [[buffer(31)]]",
        "[[buffer(31)]]",
    );
    breaks(
        "y    [[buffer(3)]]",
        "y    [[texture(3)]]",
        "[[texture(3)]]",
    );
    breaks(
        "device float       * y ",
        "constant float * y ",
        "[[buffer(3)]] and type constant float *",
    );
    breaks(
        "device float       * y ",
        "device float ** y ",
        "[[buffer(3)]] and type device float * *",
    );
    breaks(
        "device float       * y ",
        "device float & y ",
        "[[buffer(3)]] and type device float &",
    );
    breaks(
        "constant CopyArgs  & args",
        "device const CopyArgs & args",
        "[[buffer(0)]]",
    );
    breaks(
        "constant CopyArgs  & args",
        "constant Twice & args",
        "type constant Twice &",
    );
    breaks(
        "constant CopyArgs  & args [[buffer(0)]],\n",
        "\n",
        "without [[buffer(0)]]",
    );
    breaks(
        "[[threadgroup(0)]]",
        "[[threadgroup(1)]]",
        "[[threadgroup(1)]]",
    );
    breaks(
        "threadgroup float  * sh ",
        "device float * sh ",
        "[[threadgroup(0)]] and type device float *",
    );
    breaks("uint2  at", "float  at", "type float");
    breaks("ushort lane", "uint2 lane", "type uint2");
    breaks(
        "[[thread_index_in_simdgroup]]",
        "[[thread_position_in_threadgroup]]",
        "of width 1 beside at of width 2",
    );
    breaks(
        "[[thread_index_in_simdgroup]]",
        "[[lane_id]]",
        "[[lane_id]]",
    );
    breaks("kernel void copy", "kernel float copy", "kernel float copy");
}

#[test]
fn each_rule_for_declarations_is_checked() {
    breaks("FORM, 3)", "FORM, 1)", "index 1 of OTHER");
    breaks("(uint, FORM, 3)", "(bool, FORM, 3)", "bool");
    breaks(
        "constexpr constant uint",
        "constant uint",
        "constant uint HEIGHT",
    );
    breaks(
        "constexpr constant uint",
        "static uint",
        "static uint HEIGHT",
    );
    breaks(
        "static inline float larger",
        "inline float larger",
        "inline float larger",
    );
    breaks("static inline float of", "float of", "float of");
    breaks("thread float & y", "float & y", "without an address space");
    breaks(
        "thread float & y",
        "thread float & y [[buffer(1)]]",
        "[[...]]",
    );
    breaks(
        "KERNEL_INSTANCE(\"apply_twice\", apply<Twice>)",
        "KERNEL_INSTANCE(\"apply_twice\", larger<Twice>)",
        "larger",
    );
    breaks("\"apply_twice\"", "\"copy\"", "a second kernel copy");
    breaks(
        "KERNEL_INSTANCE(\"apply_twice\", apply<Twice>)",
        "KERNEL_INSTANCE(apply<Twice>)",
        "another form",
    );
    breaks(
        "#define WIDTH 32",
        "#define WIDTH(x) 32",
        "macro WIDTH(...)",
    );
    breaks("#define WIDTH 32", "#define WIDTH 32.0", "32.0");
    breaks(
        "#define WIDTH 32",
        "#define WIDTH 32\n#define WIDTH 16",
        "a second macro WIDTH",
    );
    breaks("#define WIDTH 32", "#ifdef WIDTH\n#endif", "#ifdef WIDTH");
    let without = KERNEL.replace("KERNEL_INSTANCE(\"apply_twice\", apply<Twice>)", "");
    assert!(
        parsed(&without).unwrap_err()[0]
            .found
            .contains("template apply")
    );
}

#[test]
fn each_rule_for_lines_is_checked() {
    breaks_inside("double d = 1.0f;", "double");
    breaks_inside("half h = 1.0h;", "1.0h");
    breaks_inside("float e = 1e-3;", "1e-3");
    breaks_inside("float e = .5;", ".5");
    breaks_inside("static float s = 1.0f;", "static in a function");
    breaks_inside(
        "threadgroup float t[4];",
        "a variable in threadgroup memory",
    );
    breaks_inside(
        "threadgroup const float t[4] = {};",
        "a variable in threadgroup memory",
    );
    breaks_inside("float * p = y;", "float * without an address space");
    breaks_inside("const float * p = y;", "float * without an address space");
    breaks_inside("y[0] = *(Twice *)y;", "Twice * without an address space");
    breaks_inside("y[0] = sinpi(v);", "sinpi()");
    breaks_inside("y[0] = metal::cos(v);", "cos()");
    breaks_inside("y[0] = m.thread_elements();", "method thread_elements()");
    breaks_inside("copy(args, x, y, sh, at, lane);", "a call of kernel copy");
    breaks_inside("auto f = [&](float a) { return a; };", "a lambda");
    breaks_inside("if constexpr (HEIGHT == 4) v = 1.0f;", "if constexpr");
    breaks_inside("float3 three = float3(1.0f);", "float3");
    breaks_inside("device uint3 * three = (device uint3 *)y;", "uint3 *");
    breaks_inside(
        "device atomic<float> * a = (device atomic<float> *)y;",
        "atomic<float>",
    );
    breaks_inside(
        "device atomic_float * a = (device atomic_float *)y;",
        "atomic_float",
    );
    breaks_inside("std::swap(v, v);", "std");
    breaks_inside(
        "[[unroll]] for (uint j = 0; j < 4; ++j) v += 1.0f;",
        "[[...]]",
    );
    breaks_inside("size_t n = 0;", "size_t");
}

#[test]
fn recursion_is_seen_through_other_functions() {
    let two = "static inline float first(float x) { return x; }
static inline float second(float x) { return first(x); }
";
    let kernel = KERNEL.replace("struct Twice", &format!("{two}struct Twice"));
    assert!(parsed(&kernel).is_ok());
    let faults = parsed(&kernel.replace("{ return x; }", "{ return second(x); }")).unwrap_err();
    let found: Vec<&str> = faults.iter().map(|f| f.found.as_str()).collect();
    assert_eq!(
        found,
        [
            "first calls a function of its own name",
            "second calls a function of its own name"
        ]
    );
}

#[test]
fn each_rule_for_args_is_checked() {
    for (fields, found) in [
        ("uint n; ulong stride;", "ulong stride"),
        ("ulong stride; uint n;", "12 bytes"),
        ("bool b;", "bool b"),
        ("float2 v;", "float2 v"),
        ("uint n[4];", "uint n [ 4 ]"),
        ("device float * p;", "device float * p"),
        ("", "0 bytes"),
    ] {
        let mut files = files("");
        files.insert("args.h".to_string(), format!("struct Bad {{ {fields} }};"));
        files.insert("a.metal".to_string(), "#include \"args.h\"\n".to_string());
        let faults = parse(&flatten(&files).unwrap()).unwrap_err();
        assert!(faults[0].found.contains(found), "{fields}: {faults:?}");
        assert_eq!((faults[0].file.as_str(), faults[0].line), ("args.h", 1));
    }
    let many = "ulong a; ".repeat(513);
    let text = format!("#line 1 \"args.h\"\nstruct Bad {{ {many} }};");
    assert!(parse(&text).unwrap_err()[0].found.contains("4104 bytes"));
}

#[test]
fn nothing_panics_on_half_a_text() {
    let text = flatten(&files(KERNEL)).unwrap();
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = parse(&text[..end]);
        let _ = blanked(&text[..end]);
        let _ = parse(&text[end..]);
    }
}

#[test]
fn tables_hold_what_the_formats_say() {
    let header = quant_tables(&tables::IQ2_XXS_GRID, &tables::MXFP4_VALUES);
    assert_eq!(header.matches("0x").count(), 256);
    // The second point: 43 first, then 8.
    assert!(
        header.contains("= {\n    0x0808080808080808, 0x080808080808082b,"),
        "{header}"
    );
    assert!(header.contains("0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12,"));
    let mut files = files("#include \"quant_tables.h\"\n");
    files.insert("quant_tables.h".to_string(), header);
    assert!(parse(&flatten(&files).unwrap()).is_ok());
}

/// What `metal-shaders/` declares.
fn sources() -> Shaders {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("metal-shaders");
    let mut files = read_folder(&folder).unwrap();
    let tables = quant_tables(&tables::IQ2_XXS_GRID, &tables::MXFP4_VALUES);
    files.insert("quant_tables.h".to_string(), tables);
    let text = flatten(&files).unwrap();
    parse(&text).unwrap_or_else(|faults| {
        let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
        panic!("\n{}", lines.join("\n"))
    })
}

#[test]
fn the_table_of_kernels_is_that_of_the_sources() {
    let declared: BTreeMap<String, String> = sources()
        .kernels
        .iter()
        .map(|k| (k.name.clone(), k.access()))
        .collect();
    let table = Kernel::all().into_iter();
    let table = table.map(|k| (k.name(), format!("c{}", k.access())));
    assert_eq!(table.collect::<BTreeMap<_, _>>(), declared);
}

#[test]
fn the_structures_of_arguments_are_those_of_the_sources() {
    let field = |(name, type_name, offset): &(&str, &str, usize)| Field {
        name: name.to_string(),
        type_name: type_name.to_string(),
        offset: *offset,
    };
    let ours: Vec<ArgsStruct> = args::ALL
        .iter()
        .map(|(name, size, fields)| ArgsStruct {
            name: name.to_string(),
            fields: fields.iter().map(field).collect(),
            size: *size,
        })
        .collect();
    let by_name = |mut all: Vec<ArgsStruct>| {
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    };
    assert_eq!(by_name(ours), by_name(sources().args));
}
