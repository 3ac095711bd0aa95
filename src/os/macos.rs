//! What only macOS has.
#![allow(unsafe_code)]

/// macOS has no advice that waits for the pages; this one starts the reading.
pub const MADV_POPULATE: libc::c_int = libc::MADV_WILLNEED;

pub fn available_memory() -> Option<u64> {
    let mut memory = 0u64;
    let mut len = size_of::<u64>();
    // SAFETY: the name ends with a zero byte, `memory` has room for the `len` bytes of hw.memsize, both
    // live through the call, and nothing is set.
    let code = unsafe {
        libc::sysctlbyname(
            c"hw.memsize".as_ptr(),
            (&raw mut memory).cast(),
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    (code == 0 && len == size_of::<u64>()).then_some(memory)
}
