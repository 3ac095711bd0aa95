//! Kernels compiled for this processor, loaded into this process.

use super::compile::{Sanitizer, compile};
use super::kernels::{Access, Kernels, Launch};
use crate::backend::metal::source::{Shaders, parse};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

// SAFETY: of the C library, with its types on Linux.
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}

const RTLD_NOW: c_int = 2;

/// `msl_dispatch_t` of `tests/metal/shim/runtime.cpp`.
#[repr(C)]
struct DispatchC {
    kernel: *const c_char,
    buffers: *const *mut u8,
    groups: [u32; 3],
    threads: [u32; 3],
    shared: u32,
    seed: u32,
    n_threads: u32,
    constants: *const ConstantC,
    n_constants: u32,
}

/// `msl_constant`
#[repr(C)]
struct ConstantC {
    index: u32,
    value: u32,
}

type DispatchFn = unsafe extern "C" fn(*const DispatchC, *mut c_char, usize) -> c_int;

/// Room for what a dispatch has to say.
const MESSAGE_LEN: usize = 1024;

/// A shared object of kernels. It stays loaded for good.
pub struct Loaded {
    shaders: Shaders,
    dispatch: DispatchFn,
    /// Threads of the system that a dispatch may use.
    n_threads: u32,
}

impl Loaded {
    /// The kernels of a flat text; the same text is compiled once.
    ///
    /// Errors: breaches of the dialect's rules, no compiler, what the compiler says.
    pub fn from_source(text: &str, sanitizer: Sanitizer) -> Result<Arc<Loaded>, String> {
        type Known = Mutex<HashMap<(String, Sanitizer), Arc<Loaded>>>;
        static KNOWN: std::sync::LazyLock<Known> = std::sync::LazyLock::new(Known::default);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (text.to_string(), sanitizer);
        if let Some(loaded) = known.get(&key) {
            return Ok(Arc::clone(loaded));
        }
        let shaders = parse(text).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })?;
        let object = compile(text, &shaders, sanitizer)?;
        let loaded = Arc::new(Loaded {
            dispatch: load(&object)?,
            shaders,
            n_threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(8) as u32),
        });
        known.insert(key, Arc::clone(&loaded));
        Ok(loaded)
    }

    /// What the source declares.
    pub fn shaders(&self) -> &Shaders {
        &self.shaders
    }
}

fn load(object: &Path) -> Result<DispatchFn, String> {
    let path = CString::new(object.as_os_str().as_bytes()).map_err(|why| why.to_string())?;
    // SAFETY: a shared object that we compiled; its start has no effect outside of it. It is never unloaded.
    let handle = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
    if handle.is_null() {
        // SAFETY: after a failure it is a text that lives until the next call of this thread.
        let why = unsafe { CStr::from_ptr(dlerror()) };
        return Err(why.to_string_lossy().into_owned());
    }
    // SAFETY: a live handle and a name that ends with 0.
    let found = unsafe { dlsym(handle, c"msl_dispatch".as_ptr()) };
    if found.is_null() {
        return Err(format!("{}: no msl_dispatch", object.display()));
    }
    // SAFETY: runtime.cpp defines it with this type.
    Ok(unsafe { std::mem::transmute::<*mut c_void, DispatchFn>(found) })
}

impl Kernels for Loaded {
    fn access(&self, kernel: &str) -> Option<Access> {
        let kernel = self.shaders.kernels.iter().find(|k| k.name == kernel)?;
        Some(Access {
            buffers: kernel.access(),
            threadgroup: kernel.n_threadgroup(),
        })
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), String> {
        let kernel = CString::new(launch.kernel).map_err(|why| why.to_string())?;
        let constants: Vec<ConstantC> = launch
            .constants
            .iter()
            .map(|&(index, value)| ConstantC { index, value })
            .collect();
        let dispatch = DispatchC {
            kernel: kernel.as_ptr(),
            buffers: launch.buffers.as_ptr(),
            groups: launch.groups,
            threads: launch.threads,
            shared: launch.shared,
            seed: launch.seed,
            n_threads: self.n_threads,
            constants: constants.as_ptr(),
            n_constants: constants.len() as u32,
        };
        let mut message = [0_u8; MESSAGE_LEN];
        // SAFETY: what `dispatch` points to lives through the call; that the kernel stays within its buffers is what the
        // caller promises or wants to know.
        let failed =
            unsafe { (self.dispatch)(&dispatch, message.as_mut_ptr().cast(), message.len()) };
        if failed == 0 {
            return Ok(());
        }
        let message = CStr::from_bytes_until_nul(&message).unwrap_or(c"no message");
        Err(message.to_string_lossy().into_owned())
    }
}
