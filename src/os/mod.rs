//! FENCE: the only user of `libc`, and the only place that knows files, mappings, pages and signals.
//!
//! What it promises: a [`File`] is a regular file whose reads are complete or errors; a [`Map`] and an
//! [`AlignedBuf`] own their pages and give them back; nothing here knows what a tensor is.

mod buf;
mod bus;
mod direct;
mod disk_space;
mod file;
#[cfg(feature = "metal-sim")]
mod guarded;
pub mod interrupt;
mod known;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod map;
mod memory;
pub mod meter;
mod new_file;
pub mod poll;
mod set;
pub mod share;
pub mod sim;
pub mod slots;
mod space;

pub use buf::AlignedBuf;
pub use direct::DirectFile;
pub use disk_space::free_space;
pub use file::{File, MemFile};
#[cfg(feature = "metal-sim")]
pub use guarded::{GUARDED_ALIGNMENT, Guarded, explain_faults};
#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;
pub use map::Map;
pub use memory::Slice;
pub use new_file::{NO_LINKS, NewFile, is_part, remove_abandoned};
pub use set::FileSet;

use crate::error::Result;

/// Bytes that can be read at any offset, from several threads at once.
pub trait ReadAt: Send + Sync {
    /// Length in bytes when it was opened.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the file that holds `offset` ends, in a set of several that are read as one.
    fn end_at(&self, _offset: u64) -> u64 {
        self.len()
    }

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// Errors: `Format` when there are fewer bytes, `Io` when the system refuses. After an error the
    /// contents of `buf` mean nothing.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Offsets and lengths of [`ReadAt::read_window`] are multiples of this.
    fn alignment(&self) -> usize {
        1
    }

    /// Fills `buf`, of which `need` bytes at its start must come: the file may end before the rest. Where
    /// [`ReadAt::alignment`] is above 1, `offset`, the address of `buf` and its length are multiples of it.
    ///
    /// Errors: as [`ReadAt::read_exact_at`].
    fn read_window(&self, offset: u64, buf: &mut [u8], need: usize) -> Result<()> {
        self.read_exact_at(offset, &mut buf[..need])
    }

    /// An error when the bytes may be others than when it was opened.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What to call it in messages.
    fn name(&self) -> &str;
}

/// Makes the C library give memory back as it is freed; to be called before threads are started.
pub fn give_memory_back() {
    platform::give_memory_back();
}

/// Bytes of memory that can be used now without driving the machine into swapping, or `None` when
/// the system does not say.
///
/// Linux: `MemAvailable`, or less where a control group allows less. macOS: free, inactive and purgeable
/// pages, an estimate: inactive pages of programs would be compressed, not dropped. The macOS part was
/// type-checked only, never run on a Mac.
pub fn available_memory() -> Option<u64> {
    platform::available_memory()
}

/// CPUs this process may use, at least 1.
pub fn n_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of a page of memory.
#[allow(unsafe_code)]
pub fn page_size() -> usize {
    // SAFETY: sysconf takes no pointer and _SC_PAGESIZE exists on every system this builds for.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // 4 KiB is the smallest page of the supported systems; sysconf does not fail for this name.
    usize::try_from(size)
        .ok()
        .filter(|s| s.is_power_of_two())
        .unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_cpus_and_pages() {
        assert!(n_cpus() >= 1);
        assert!(page_size() >= 4096);
        let memory = available_memory().unwrap();
        assert!(memory > 1 << 20, "{memory}");
    }
}
