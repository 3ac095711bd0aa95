//! The device itself, libraries, functions and pipelines.

use super::classes::{Class, Method};
use super::commands::{self, EVENT, QUEUE};
use super::compile::Sanitizer;
use super::foundation::{DATA, STRING};
use super::kernels::{Function, Kernels};
use super::loaded::Loaded;
use super::runtime::{id, with, with_own};
use super::{Key, State, known};
use crate::backend::metal::objc::{Id, Sel};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

/// Options of the compiler.
#[derive(Default)]
pub(super) struct Options {
    language_version: Option<usize>,
    math_mode: Option<isize>,
    math_functions: Option<isize>,
    fast_math: Option<bool>,
}

pub(super) static DEVICE: Class = Class::new(
    "MTLDevice",
    &[
        Method::new("name", "@@:", name as *const ()),
        Method::new("supportsFamily:", "B@:q", supports_family as *const ()),
        Method::new("hasUnifiedMemory", "B@:", has_unified_memory as *const ()),
        Method::new("maxBufferLength", "Q@:", max_buffer_length as *const ()),
        Method::new(
            "recommendedMaxWorkingSetSize",
            "Q@:",
            working_set as *const (),
        ),
        Method::new("currentAllocatedSize", "Q@:", allocated_size as *const ()),
        Method::new("newCommandQueue", "@@:", new_queue as *const ()),
        Method::new(
            "newBufferWithLength:options:",
            "@@:QQ",
            super::memory::new_buffer as *const (),
        ),
        Method::new(
            "newBufferWithBytesNoCopy:length:options:deallocator:",
            "@@:^vQQ@?",
            super::memory::new_buffer_no_copy as *const (),
        ),
        Method::new(
            "newLibraryWithData:error:",
            "@@:@^@",
            library_with_data as *const (),
        ),
        Method::new(
            "newLibraryWithSource:options:error:",
            "@@:@@^@",
            library_with_source as *const (),
        ),
        Method::new(
            "newComputePipelineStateWithFunction:error:",
            "@@:@^@",
            new_pipeline as *const (),
        ),
        Method::new("newSharedEvent", "@@:", new_shared_event as *const ()),
        Method::new(
            "newResidencySetWithDescriptor:error:",
            "@@:@^@",
            super::memory::new_residency_set as *const (),
        )
        .macos_15(),
    ],
);
pub(super) static OPTIONS_CLASS: Class = Class::new(
    "+MTLCompileOptions",
    &[Method::new("new", "@@:", new_options as *const ())],
);
pub(super) static OPTIONS: Class = Class::new(
    "MTLCompileOptions",
    &[
        Method::new(
            "setLanguageVersion:",
            "v@:Q",
            set_language_version as *const (),
        ),
        Method::new("setMathMode:", "v@:q", set_math_mode as *const ()).macos_15(),
        Method::new(
            "setMathFloatingPointFunctions:",
            "v@:q",
            set_math_functions as *const (),
        )
        .macos_15(),
        Method::new("setFastMathEnabled:", "v@:B", set_fast_math as *const ()),
    ],
);
pub(super) static CONSTANTS_CLASS: Class = Class::new(
    "+MTLFunctionConstantValues",
    &[Method::new("new", "@@:", new_constants as *const ())],
);
pub(super) static CONSTANTS: Class = Class::new(
    "MTLFunctionConstantValues",
    &[Method::new(
        "setConstantValue:type:atIndex:",
        "v@:^vQQ",
        set_constant as *const (),
    )],
);
pub(super) static LIBRARY: Class = Class::new(
    "MTLLibrary",
    &[Method::new(
        "newFunctionWithName:constantValues:error:",
        "@@:@@^@",
        new_function as *const (),
    )],
);
pub(super) static FUNCTION: Class = Class::new("MTLFunction", &[]);
pub(super) static PIPELINE: Class = Class::new(
    "MTLComputePipelineState",
    &[
        Method::new(
            "maxTotalThreadsPerThreadgroup",
            "Q@:",
            max_threads as *const (),
        ),
        Method::new("threadExecutionWidth", "Q@:", execution_width as *const ()),
        Method::new(
            "staticThreadgroupMemoryLength",
            "Q@:",
            static_memory as *const (),
        ),
    ],
);

#[unsafe(no_mangle)]
extern "C" fn MTLCreateSystemDefaultDevice() -> Id {
    with_own(|s| {
        if !s.limits.has_device {
            return null_mut();
        }
        let alive = |key: &Key| s.objects.get(key).is_some_and(|device| device.owners > 0);
        if let Some(key) = s.device.filter(alive) {
            s.retain(key);
            return id(key);
        }
        let key = s.make(&DEVICE);
        s.device = Some(key);
        id(key)
    })
}

extern "C" fn name(this: Id, _: Sel) -> Id {
    with(this, |s| s.string("software Metal (no GPU)"))
}

extern "C" fn supports_family(this: Id, _: Sel, family: isize) -> bool {
    const APPLE_1: isize = 1001;
    with(this, |s| (APPLE_1..=s.limits.family).contains(&family))
}

extern "C" fn has_unified_memory(_: Id, _: Sel) -> bool {
    true
}

extern "C" fn max_buffer_length(this: Id, _: Sel) -> usize {
    with(this, |s| s.limits.max_buffer_length)
}

extern "C" fn working_set(this: Id, _: Sel) -> u64 {
    with(this, |s| s.limits.working_set)
}

extern "C" fn allocated_size(this: Id, _: Sel) -> usize {
    with(this, |s| s.allocated_bytes())
}

extern "C" fn new_queue(this: Id, _: Sel) -> Id {
    with(this, |s| {
        let key = s.make(&QUEUE);
        s.queues.insert(key, commands::Queue::default());
        id(key)
    })
}

extern "C" fn new_shared_event(this: Id, _: Sel) -> Id {
    with(this, |s| {
        let key = s.make(&EVENT);
        s.events.insert(key, 0);
        id(key)
    })
}

extern "C" fn new_options(_: Id, _: Sel) -> Id {
    with_own(|s| {
        let key = s.make(&OPTIONS);
        s.options.insert(key, Options::default());
        id(key)
    })
}

extern "C" fn set_language_version(this: Id, _: Sel, version: usize) {
    with(this, |s| {
        // Major in the upper half: 3.0 is the first with simdgroup functions on all M chips, 4.0 the last known (Apple).
        if !(3 << 16..=4 << 16).contains(&version) {
            s.breach(format!(
                "setLanguageVersion: {version:#x}, expected 0x30000 to 0x40000"
            ));
        }
        known(s.options.get_mut(&this.addr())).language_version = Some(version);
    });
}

extern "C" fn set_math_mode(this: Id, _: Sel, mode: isize) {
    with(this, |s| {
        known(s.options.get_mut(&this.addr())).math_mode = Some(mode)
    });
}

extern "C" fn set_math_functions(this: Id, _: Sel, functions: isize) {
    with(this, |s| {
        known(s.options.get_mut(&this.addr())).math_functions = Some(functions)
    });
}

extern "C" fn set_fast_math(this: Id, _: Sel, enabled: bool) {
    with(this, |s| {
        known(s.options.get_mut(&this.addr())).fast_math = Some(enabled)
    });
}

extern "C" fn new_constants(_: Id, _: Sel) -> Id {
    with_own(|s| {
        let key = s.make(&CONSTANTS);
        s.constants.entry(key).or_default();
        id(key)
    })
}

extern "C" fn set_constant(this: Id, _: Sel, value: *const c_void, kind: usize, index: usize) {
    const UINT: usize = 33; // MTLDataTypeUInt (Apple)
    with(this, |s| {
        if kind != UINT {
            s.breach(format!("function constant {index} has type {kind}, expected 33 (uint): our kernels have no others"));
            return;
        }
        let Ok(index) = u32::try_from(index) else {
            s.breach(format!(
                "function constant {index}, expected 65535 at most (Apple)"
            ));
            return;
        };
        // SAFETY: the caller gives the address of a value of that type.
        let value = unsafe { value.cast::<u32>().read_unaligned() };
        known(s.constants.get_mut(&this.addr())).insert(index, value);
    });
}

/// What a compiled library starts with; here its source follows.
const COMPILED: &[u8] = b"MTLB";

extern "C" fn library_with_data(this: Id, _: Sel, data: Id, error: *mut Id) -> Id {
    with(this, |s| {
        s.needs_pool("newLibraryWithData:error:");
        let Some(data) = s.argument("newLibraryWithData:error:", data, &DATA) else {
            return null_mut();
        };
        let source = s
            .data
            .get(&data)
            .and_then(|data| data.strip_prefix(COMPILED));
        match source.map(|source| String::from_utf8_lossy(source).into_owned()) {
            Some(source) => s.library(&source, error),
            None => s.refuse("Invalid library file", error),
        }
    })
}

extern "C" fn library_with_source(this: Id, _: Sel, source: Id, options: Id, error: *mut Id) -> Id {
    let message = "newLibraryWithSource:options:error:";
    with(this, |s| {
        s.needs_pool(message);
        let Some(source) = s.argument(message, source, &STRING) else {
            return null_mut();
        };
        let Some(options) = s.argument(message, options, &OPTIONS) else {
            return null_mut();
        };
        let options = known(s.options.get(&options));
        // Without these, sums are reordered and functions approximate (Apple).
        let exact = if s.limits.macos_15 {
            options.math_mode == Some(0) && options.math_functions == Some(1)
        } else {
            options.fast_math == Some(false)
        };
        if !exact || options.language_version.is_none() {
            s.breach(format!(
                "{message} without language version or exact arithmetic"
            ));
        }
        let source = known(s.strings.get(&source)).to_string_lossy().into_owned();
        if source
            .lines()
            .any(|line| line.trim_start().starts_with("#include \""))
        {
            // The compiler in the driver sees no files (Apple).
            return s.refuse("program_source: fatal error: file not found", error);
        }
        s.library(&source, error)
    })
}

impl State {
    fn library(&mut self, source: &str, error: *mut Id) -> Id {
        let kernels = match &self.control.kernels {
            Some(kernels) => Ok(Arc::clone(kernels)),
            None => compile(source),
        };
        match kernels {
            Ok(kernels) => {
                let key = self.make(&LIBRARY);
                self.libraries.insert(key, kernels);
                id(key)
            }
            Err(why) => self.refuse(&why, error),
        }
    }
}

fn compile(source: &str) -> Result<Arc<dyn Kernels>, String> {
    Ok(Loaded::from_source(source, Sanitizer::from_environment()?)?)
}

extern "C" fn new_function(this: Id, _: Sel, name: Id, values: Id, error: *mut Id) -> Id {
    let message = "newFunctionWithName:constantValues:error:";
    with(this, |s| {
        s.needs_pool(message);
        let Some(name) = s.argument(message, name, &STRING) else {
            return null_mut();
        };
        let Some(values) = s.argument(message, values, &CONSTANTS) else {
            return null_mut();
        };
        let name = known(s.strings.get(&name)).to_string_lossy().into_owned();
        let kernels = Arc::clone(known(s.libraries.get(&this.addr())));
        let Some(access) = kernels.access(&name) else {
            return s.refuse(
                &format!("Function {name} was not found in the library"),
                error,
            );
        };
        let constants = known(s.constants.get(&values));
        let constants = constants.iter().map(|(&i, &v)| (i, v)).collect();
        let key = s.make(&FUNCTION);
        s.functions.insert(
            key,
            Function {
                kernels,
                name,
                access,
                constants,
            },
        );
        id(key)
    })
}

extern "C" fn new_pipeline(this: Id, _: Sel, function: Id, error: *mut Id) -> Id {
    let message = "newComputePipelineStateWithFunction:error:";
    with(this, |s| {
        s.needs_pool(message);
        let Some(function) = s.argument(message, function, &FUNCTION) else {
            return null_mut();
        };
        if s.control.pipeline.strikes() {
            return s.refuse("Compiler encountered an internal error", error);
        }
        let function = known(s.functions.get(&function)).clone();
        let key = s.make(&PIPELINE);
        s.pipelines.insert(key, function);
        s.counts.pipelines += 1;
        id(key)
    })
}

extern "C" fn max_threads(this: Id, _: Sel) -> usize {
    with(this, |s| s.limits.threads_per_group)
}

extern "C" fn execution_width(_: Id, _: Sel) -> usize {
    32 // of every Apple GPU (Apple)
}

extern "C" fn static_memory(_: Id, _: Sel) -> usize {
    0 // our kernels take theirs as an argument
}
