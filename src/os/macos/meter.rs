//! Figures from Mach and sysctl. Type-checked only: this has never run on a Mac.
//!
//! Source: mach/vm_statistics.h, mach/task_info.h, mach/mach_init.h, sys/resource.h, sys/sysctl.h of the SDK.
#![allow(unsafe_code)]

use super::super::meter::{Process, System, pages_by_mincore};
use super::super::{File, Map, ReadAt, page_size};
use crate::units::Extent;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

pub fn process() -> Process {
    let task = task_vm_info();
    let usage = resource_usage();
    let faults = fault_counts();
    Process {
        rss_bytes: task.as_ref().map(|t| t.resident_size),
        anon_bytes: task.as_ref().map(|t| t.internal),
        file_bytes: task.as_ref().map(|t| t.external),
        locked_bytes: usage.as_ref().map(|u| u.ri_wired_size),
        peak_rss_bytes: task.as_ref().map(|t| t.resident_size_peak),
        n_minor_faults: faults.map(|(minor, _)| minor),
        n_major_faults: faults.map(|(_, major)| major),
        storage_read_bytes: usage.as_ref().map(|u| u.ri_diskio_bytesread),
        returned_read_bytes: None,
    }
}

pub fn system() -> System {
    let total = memory_size();
    let page = page_size() as u64;
    let Some(vm) = vm_statistics() else {
        return System {
            total_bytes: total,
            swap_used_bytes: swap_used(),
            ..System::default()
        };
    };
    let pages = |n: u32| u64::from(n).checked_mul(page);
    // Pages read ahead count as free here; they are page cache, as in Linux.
    let free = pages(vm.free_count.saturating_sub(vm.speculative_count));
    System {
        total_bytes: total,
        available_bytes: available(&vm, total),
        used_bytes: total.zip(free).and_then(|(a, b)| a.checked_sub(b)),
        file_bytes: pages(vm.external_page_count),
        anon_bytes: pages(vm.internal_page_count),
        locked_bytes: pages(vm.wire_count),
        swap_used_bytes: swap_used(),
        swap_out_bytes: vm.swapouts.checked_mul(page),
        page_in_bytes: vm.pageins.checked_mul(page),
        compressor_bytes: pages(vm.compressor_page_count),
    }
}

pub fn available_memory() -> Option<u64> {
    let total = memory_size();
    match vm_statistics() {
        Some(vm) => available(&vm, total),
        None => total,
    }
}

/// Free (read-ahead included), inactive and purgeable pages, in bytes; at most `total`.
fn available(vm: &VmStatistics64, total: Option<u64>) -> Option<u64> {
    let parts = [vm.free_count, vm.inactive_count, vm.purgeable_count];
    let n_pages: u64 = parts.into_iter().map(u64::from).sum();
    let bytes = n_pages.checked_mul(page_size() as u64)?;
    Some(total.map_or(bytes, |total| total.min(bytes)))
}

/// macOS keeps the peak for the life of the process.
pub fn reset_peak() -> bool {
    false
}

/// Writes changed pages; only clean ones can be dropped.
pub fn write_back(file: &File) {
    // SAFETY: the descriptor is open through the call, which takes nothing else. A failure leaves pages behind,
    // which the caller counts.
    unsafe { libc::fsync(file.as_fd().as_raw_fd()) };
}

/// Asks once to drop the whole file. There is no call for a descriptor; a shared mapping can be invalidated, and
/// whether the system then drops the pages is for the caller to count.
pub fn drop_cached(file: &File) {
    let (offset, len) = (0, file.len());
    let Ok(map) = Map::shared(file) else {
        return;
    };
    if let Some(pages) = map.pages(Extent { offset, len }) {
        // SAFETY: the pages are a whole mapping of ours of which no slice was given out; it cannot be written, so nothing is
        // lost.
        unsafe { libc::msync(pages.start, pages.range.len as usize, libc::MS_INVALIDATE) };
    }
}

/// The pages of the page cache that hold any of `range`, which is not empty and lies in the file.
pub fn cached_pages(file: &File, range: Extent) -> Option<u64> {
    pages_by_mincore(file, range)
}

/// `struct vm_statistics64` up to its revision 1, which all supported systems know. The counts are pages.
#[repr(C)]
#[derive(Default)]
struct VmStatistics64 {
    free_count: u32,
    active_count: u32,
    inactive_count: u32,
    wire_count: u32,
    zero_fill_count: u64,
    reactivations: u64,
    pageins: u64,
    pageouts: u64,
    faults: u64,
    cow_faults: u64,
    lookups: u64,
    hits: u64,
    purges: u64,
    purgeable_count: u32,
    speculative_count: u32,
    decompressions: u64,
    compressions: u64,
    swapins: u64,
    swapouts: u64,
    compressor_page_count: u32,
    throttled_count: u32,
    external_page_count: u32,
    internal_page_count: u32,
    total_uncompressed_pages_in_compressor: u64,
}

const _: () = assert!(size_of::<VmStatistics64>() == 152);

/// `struct task_vm_info` up to its revision 0. The sizes are bytes.
#[repr(C)]
#[derive(Default)]
struct TaskVmInfo {
    virtual_size: u64,
    region_count: i32,
    page_size: i32,
    resident_size: u64,
    resident_size_peak: u64,
    device: u64,
    device_peak: u64,
    internal: u64,
    internal_peak: u64,
    external: u64,
    external_peak: u64,
    reusable: u64,
    reusable_peak: u64,
    purgeable_volatile_pmap: u64,
    purgeable_volatile_resident: u64,
    purgeable_volatile_virtual: u64,
    compressed: u64,
    compressed_peak: u64,
    compressed_lifetime: u64,
}

const _: () = assert!(size_of::<TaskVmInfo>() == 144);

const HOST_VM_INFO64: i32 = 4;
const TASK_VM_INFO: u32 = 22;
const KERN_SUCCESS: i32 = 0;

/// Mach counts results in words of 32 bits.
const WORD: usize = size_of::<i32>();

// The libc crate has no TASK_VM_INFO, and two of the functions only as deprecated. All are in libSystem.
unsafe extern "C" {
    static mach_task_self_: u32;
    safe fn mach_host_self() -> u32;
    fn host_statistics64(host: u32, flavor: i32, out: *mut i32, n_words: *mut u32) -> i32;
    fn task_info(task: u32, flavor: u32, out: *mut i32, n_words: *mut u32) -> i32;
}

fn vm_statistics() -> Option<VmStatistics64> {
    // Each call adds a reference to the same port: one is enough.
    static HOST: OnceLock<u32> = OnceLock::new();
    let host = *HOST.get_or_init(|| mach_host_self());
    let all = (size_of::<VmStatistics64>() / WORD) as u32;
    let mut n_words = all;
    let mut found = VmStatistics64::default();
    // SAFETY: `found` has the layout of vm_statistics64 and room for the `n_words` words promised; the call writes
    // no more than that, and both live through it.
    let code = unsafe {
        let out = (&raw mut found).cast();
        host_statistics64(host, HOST_VM_INFO64, out, &raw mut n_words)
    };
    (code == KERN_SUCCESS && n_words >= all).then_some(found)
}

fn task_vm_info() -> Option<TaskVmInfo> {
    let all = (size_of::<TaskVmInfo>() / WORD) as u32;
    let mut n_words = all;
    let mut found = TaskVmInfo::default();
    // SAFETY: the port of this task is set before main and never changes; `found` has the layout of task_vm_info
    // and room for the `n_words` words promised, and both live through the call.
    let code = unsafe {
        let out = (&raw mut found).cast();
        task_info(mach_task_self_, TASK_VM_INFO, out, &raw mut n_words)
    };
    (code == KERN_SUCCESS && n_words >= all).then_some(found)
}

const _: () = assert!(size_of::<libc::rusage_info_v4>() == 296);

fn resource_usage() -> Option<libc::rusage_info_v4> {
    // SAFETY: all-zero is a valid rusage_info_v4, which holds integers only.
    let mut found: libc::rusage_info_v4 = unsafe { std::mem::zeroed() };
    // SAFETY: the flavor asks for exactly the struct that `found` is; the system declares the pointer as one to
    // its untyped name. It lives through the call.
    let code = unsafe {
        let out = (&raw mut found).cast();
        libc::proc_pid_rusage(libc::getpid(), libc::RUSAGE_INFO_V4, out)
    };
    (code == 0).then_some(found)
}

/// Page faults without and with a read.
fn fault_counts() -> Option<(u64, u64)> {
    // SAFETY: all-zero is a valid rusage, which holds integers only.
    let mut found: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `found` may be written and lives through the call.
    let code = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut found) };
    let minor = u64::try_from(found.ru_minflt).ok()?;
    let major = u64::try_from(found.ru_majflt).ok()?;
    (code == 0).then_some((minor, major))
}

fn memory_size() -> Option<u64> {
    sysctl_words::<1>(c"hw.memsize").map(|[size]| size)
}

const _: () = assert!(size_of::<libc::xsw_usage>() == 4 * size_of::<u64>());

/// Bytes of swap in use: the third of total, available, used, and two flags in one word.
fn swap_used() -> Option<u64> {
    sysctl_words::<4>(c"vm.swapusage").map(|[_, _, used, _]| used)
}

/// A figure of the system that is `N` words of 64 bits.
fn sysctl_words<const N: usize>(name: &CStr) -> Option<[u64; N]> {
    let mut words = [0u64; N];
    let mut len = size_of_val(&words);
    // SAFETY: the name ends with a zero byte, `words` has room for `len` bytes, both live through the call,
    // and nothing is set.
    let code = unsafe {
        let out = words.as_mut_ptr().cast();
        libc::sysctlbyname(name.as_ptr(), out, &raw mut len, std::ptr::null_mut(), 0)
    };
    (code == 0 && len == size_of_val(&words)).then_some(words)
}
