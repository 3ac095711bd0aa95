//! The kernels' sources as data: one flat text of them, what it declares, and what in it breaks the rules of our dialect.
//!
//! Metal's language has no free compiler, so `metal-shaders/` keeps to what other compilers can check too; `lint.rs` lists
//! the rules. The build script reads this module as well: it depends on nothing but std.

mod flatten;
mod kernels;
mod lint;
mod parse;
mod scan;
mod tables;

pub use flatten::{flatten, read_folder};
pub use parse::{blanked, parse};
pub use tables::quant_tables;

use std::fmt;

/// A breach of a rule, or what could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// File below `metal-shaders/`.
    pub file: String,
    /// Line, from 1 on.
    pub line: usize,
    /// What stands there.
    pub found: String,
    /// What may stand there.
    pub expected: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault {
            file,
            line,
            found,
            expected,
        } = self;
        write!(
            f,
            "metal-shaders/{file}:{line}: found {found}, expected {expected}"
        )
    }
}

/// What the flat text declares.
#[derive(Clone, Debug, Default)]
pub struct Shaders {
    /// In the order of the text; instances of a template are kernels of their own.
    pub kernels: Vec<Kernel>,
    /// The structures of `args.h`.
    pub args: Vec<ArgsStruct>,
    /// Function constants.
    pub constants: Vec<FunctionConstant>,
}

/// A kernel that a library has under its name.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name in the library.
    pub name: String,
    /// How C++ names it: `copy_u32`, `matvec<Q8_0>`.
    pub function: String,
    /// In order.
    pub parameters: Vec<Parameter>,
    /// Indices of the function constants that it or a function it calls reads, ascending.
    pub constants: Vec<u32>,
}

impl Kernel {
    /// One letter a buffer from 0 to the last: `c` constant, `r` read (`device const`), `w` written (`device`), `-` none.
    pub fn access(&self) -> String {
        let mut letters = String::new();
        for parameter in &self.parameters {
            if let Attribute::Buffer { index, access } = parameter.attribute {
                while letters.len() <= index {
                    letters.push('-');
                }
                letters.replace_range(index..=index, access.letter());
            }
        }
        letters
    }

    /// Parameters in threadgroup memory: 0 or 1.
    pub fn n_threadgroup(&self) -> usize {
        let in_threadgroup = |p: &&Parameter| p.attribute == Attribute::Threadgroup;
        self.parameters.iter().filter(in_threadgroup).count()
    }
}

/// A parameter of a kernel.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type without the address space: `float *`, `CopyArgs &`, `uint2`.
    pub type_name: String,
    /// What it is bound to.
    pub attribute: Attribute,
}

/// What a parameter of a kernel is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `[[buffer(index)]]`
    Buffer {
        /// 0 to 30.
        index: usize,
        /// From its address space.
        access: Access,
    },
    /// `[[threadgroup(0)]]`
    Threadgroup,
    /// One of [`POSITIONS`].
    Position(&'static str),
}

/// What a kernel may do with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `constant`
    Constant,
    /// `device const`
    Read,
    /// `device`
    Write,
}

impl Access {
    fn letter(self) -> &'static str {
        match self {
            Access::Constant => "c",
            Access::Read => "r",
            Access::Write => "w",
        }
    }
}

/// The attributes that tell a thread its place, and whether each may be a vector.
pub const POSITIONS: [(&str, bool); 11] = [
    ("thread_position_in_grid", true),
    ("threadgroup_position_in_grid", true),
    ("thread_position_in_threadgroup", true),
    ("threads_per_threadgroup", true),
    ("threadgroups_per_grid", true),
    ("threads_per_grid", true),
    ("thread_index_in_threadgroup", false),
    ("thread_index_in_simdgroup", false),
    ("simdgroup_index_in_threadgroup", false),
    ("simdgroups_per_threadgroup", false),
    ("threads_per_simdgroup", false),
];

/// A structure that kernels have at buffer 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgsStruct {
    /// Its name.
    pub name: String,
    /// In order.
    pub fields: Vec<Field>,
    /// Bytes.
    pub size: usize,
}

/// A field of an [`ArgsStruct`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// `uint`, `int`, `float`, `ulong` or `long`.
    pub type_name: String,
    /// Bytes from the start.
    pub offset: usize,
}

/// `FUNCTION_CONSTANT(uint, name, index)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionConstant {
    /// Its name.
    pub name: String,
    /// Its index, of which there is one in all sources.
    pub index: u32,
}

#[cfg(test)]
mod tests;
