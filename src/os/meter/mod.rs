//! What the system says of memory, faults and reads: of this process, of the machine, and of the page cache.
//!
//! A figure that a system does not report is `None`, never 0 and never a guess. The macOS part was type-checked
//! only: it has never run on a Mac.

mod cache;
mod held;
mod sampler;
mod thinned;

pub(super) use cache::pages_by_mincore;
pub use cache::{cached_bytes, cached_bytes_in, cached_bytes_of, drop_cached, drop_cached_of};
pub use held::{Held, simulate_used_memory};
pub use sampler::{SAMPLES, Sample, Sampler, Watched};
pub use thinned::Thinned;

use super::platform;

/// This process, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Bytes of memory that the process has in use, its mapped files included (Linux `VmRSS`).
    pub rss_bytes: Option<u64>,
    /// Bytes of it that belong to no file (Linux `RssAnon`; macOS: internal pages, without compressed ones).
    pub anon_bytes: Option<u64>,
    /// Bytes of it that are pages of mapped files (Linux `RssFile`; macOS: external pages).
    pub file_bytes: Option<u64>,
    /// Bytes that cannot be swapped out (Linux `VmLck`; macOS: wired on behalf of the process).
    pub locked_bytes: Option<u64>,
    /// The largest [`Process::rss_bytes`] since the start or the last [`reset_peak`] (Linux `VmHWM`).
    pub peak_rss_bytes: Option<u64>,
    /// Page faults since the start that needed no read from storage.
    pub n_minor_faults: Option<u64>,
    /// Page faults since the start that waited for storage.
    pub n_major_faults: Option<u64>,
    /// Bytes fetched from storage since the start on behalf of the process, by reads past the page cache, through
    /// it, and by faults on mappings. Read-ahead may be billed to another process.
    pub storage_read_bytes: Option<u64>,
    /// Bytes returned by read calls since the start, from storage or cache (Linux `rchar`; not on macOS).
    /// Each snapshot adds the few KiB that it reads from `/proc`.
    pub returned_read_bytes: Option<u64>,
}

impl Process {
    /// The figures of now; costs about 40 microseconds.
    pub fn now() -> Process {
        platform::meter::process()
    }

    /// The larger of each figure.
    pub fn max(self, other: Process) -> Process {
        Process {
            rss_bytes: self.rss_bytes.max(other.rss_bytes),
            anon_bytes: self.anon_bytes.max(other.anon_bytes),
            file_bytes: self.file_bytes.max(other.file_bytes),
            locked_bytes: self.locked_bytes.max(other.locked_bytes),
            peak_rss_bytes: self.peak_rss_bytes.max(other.peak_rss_bytes),
            n_minor_faults: self.n_minor_faults.max(other.n_minor_faults),
            n_major_faults: self.n_major_faults.max(other.n_major_faults),
            storage_read_bytes: self.storage_read_bytes.max(other.storage_read_bytes),
            returned_read_bytes: self.returned_read_bytes.max(other.returned_read_bytes),
        }
    }
}

/// The machine, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// Bytes of memory of the machine.
    pub total_bytes: Option<u64>,
    /// Bytes that programs can take without swapping; [`super::available_memory`] also looks at control groups.
    pub available_bytes: Option<u64>,
    /// Bytes in use for anything: total less free. Counts the page cache, which can be dropped.
    pub used_bytes: Option<u64>,
    /// Bytes of the page cache that belong to files (Linux `Cached - Shmem`; macOS: external pages).
    pub file_bytes: Option<u64>,
    /// Bytes of programs that belong to no file (Linux `AnonPages`; macOS: internal pages).
    pub anon_bytes: Option<u64>,
    /// Bytes that cannot be swapped out (Linux `Mlocked`; macOS: wired).
    pub locked_bytes: Option<u64>,
    /// Bytes of swap in use.
    pub swap_used_bytes: Option<u64>,
    /// Bytes written to swap since the start of the machine.
    pub swap_out_bytes: Option<u64>,
    /// Bytes read from disks since the start of the machine (Linux `pgpgin`, reads past the cache included;
    /// macOS: pages that the pager read).
    pub page_in_bytes: Option<u64>,
    /// Bytes of memory that hold compressed pages (Linux `Zswap`; macOS: the compressor).
    pub compressor_bytes: Option<u64>,
}

impl System {
    /// The figures of now; costs about 0.1 ms.
    pub fn now() -> System {
        platform::meter::system()
    }

    /// The larger of each figure.
    pub fn max(self, other: System) -> System {
        System {
            total_bytes: self.total_bytes.max(other.total_bytes),
            available_bytes: self.available_bytes.max(other.available_bytes),
            used_bytes: self.used_bytes.max(other.used_bytes),
            file_bytes: self.file_bytes.max(other.file_bytes),
            anon_bytes: self.anon_bytes.max(other.anon_bytes),
            locked_bytes: self.locked_bytes.max(other.locked_bytes),
            swap_used_bytes: self.swap_used_bytes.max(other.swap_used_bytes),
            swap_out_bytes: self.swap_out_bytes.max(other.swap_out_bytes),
            page_in_bytes: self.page_in_bytes.max(other.page_in_bytes),
            compressor_bytes: self.compressor_bytes.max(other.compressor_bytes),
        }
    }
}

/// Makes [`Process::peak_rss_bytes`] begin again at what is in use now; false where the system cannot (macOS,
/// Linux without `/proc/self/clear_refs`).
pub fn reset_peak() -> bool {
    platform::meter::reset_peak()
}
