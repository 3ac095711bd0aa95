//! Figures from /proc, and the page cache by cachestat(2). Source: proc(5), posix_fadvise(2), linux/mman.h.
#![allow(unsafe_code)]

use super::super::meter::{Process, System};
use super::super::{File, ReadAt, page_size};
use super::field;
use crate::units::Extent;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

pub fn process() -> Process {
    parse_process(
        &text("/proc/self/status"),
        &text("/proc/self/io"),
        &text("/proc/self/stat"),
    )
}

pub fn system() -> System {
    let page = page_size() as u64;
    parse_system(&text("/proc/meminfo"), &text("/proc/vmstat"), page)
}

pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Starts and awaits the writing of changed pages; only clean ones can be dropped.
pub fn write_back(file: &File) {
    // SAFETY: the descriptor is open through the call, which takes nothing else. A failure leaves pages behind,
    // which the caller counts.
    unsafe { libc::fdatasync(file.as_fd().as_raw_fd()) };
}

/// Asks once to drop the whole file.
pub fn drop_cached(file: &File) {
    let (offset, len) = (0, file.len());
    super::drop_cached(file, Extent { offset, len });
}

/// The pages of the page cache that hold any of `range`, which is not empty and lies in the file.
pub fn cached_pages(file: &File, range: Extent) -> Option<u64> {
    match cachestat(file, range) {
        Ok(n_pages) => Some(n_pages),
        // Old kernels, filters of system calls, and files of others that this process may not write.
        Err(libc::ENOSYS | libc::EPERM) => mincore(file, range),
        Err(_) => None,
    }
}

/// `SYS_cachestat`: one number on all architectures that this builds for; the libc crate does not have it on all.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`: bytes.
#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

/// `struct cachestat`: pages.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    nr_cache: u64,
    nr_dirty: u64,
    nr_writeback: u64,
    nr_evicted: u64,
    nr_recently_evicted: u64,
}

const _: () = assert!(size_of::<CachestatRange>() == 16 && size_of::<Cachestat>() == 40);

/// Cached pages, or the error number.
fn cachestat(file: &File, range: Extent) -> Result<u64, libc::c_int> {
    let fd = file.as_fd().as_raw_fd();
    let range = CachestatRange {
        off: range.offset,
        len: range.len,
    };
    let mut found = Cachestat::default();
    let flags: libc::c_uint = 0;
    // SAFETY: the call takes (descriptor, range to read, result to write, flags), the structs have the layout of
    // linux/mman.h, and all live through the call.
    let code = unsafe { libc::syscall(SYS_CACHESTAT, fd, &raw const range, &raw mut found, flags) };
    if code != 0 {
        let error = std::io::Error::last_os_error().raw_os_error();
        return Err(error.unwrap_or(libc::EIO));
    }
    Ok(found.nr_cache)
}

/// mincore, where it tells the truth: of a file that this process neither owns nor may write it says that all of
/// it is in memory (since Linux 5.2).
fn mincore(file: &File, range: Extent) -> Option<u64> {
    let fd = file.as_fd().as_raw_fd();
    let path = format!("/proc/self/fd/{fd}");
    // SAFETY: geteuid takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    let owned = std::fs::metadata(&path).is_ok_and(|m| m.uid() == user);
    let c_path = CString::new(path).ok()?;
    // SAFETY: the path ends with a zero byte and lives through the call.
    let told = owned || unsafe { libc::access(c_path.as_ptr(), libc::W_OK) } == 0;
    told.then(|| super::super::meter::pages_by_mincore(file, range))?
}

/// A file of /proc, empty when it cannot be read. The name of a process can be no UTF-8.
fn text(path: &str) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The field `name` of `text`, which is in units of 1024 bytes, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.checked_mul(1024)
}

fn parse_process(status: &str, io: &str, stat: &str) -> Process {
    // pid (name, which may hold spaces and brackets) state ppid pgrp session tty tpgid flags
    // minflt cminflt majflt: the 8th and the 10th behind the name.
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let nth = |n| behind_name.split_whitespace().nth(n)?.parse().ok();
    Process {
        rss_bytes: kib(status, "VmRSS:"),
        anon_bytes: kib(status, "RssAnon:"),
        file_bytes: kib(status, "RssFile:"),
        locked_bytes: kib(status, "VmLck:"),
        peak_rss_bytes: kib(status, "VmHWM:"),
        n_minor_faults: nth(7),
        n_major_faults: nth(9),
        storage_read_bytes: field(io, "read_bytes:"),
        returned_read_bytes: field(io, "rchar:"),
    }
}

/// `page`: bytes of a page.
fn parse_system(meminfo: &str, vmstat: &str, page: u64) -> System {
    let less = |a, b| kib(meminfo, a)?.checked_sub(kib(meminfo, b)?);
    System {
        total_bytes: kib(meminfo, "MemTotal:"),
        available_bytes: kib(meminfo, "MemAvailable:"),
        used_bytes: less("MemTotal:", "MemFree:"),
        file_bytes: less("Cached:", "Shmem:"),
        anon_bytes: kib(meminfo, "AnonPages:"),
        locked_bytes: kib(meminfo, "Mlocked:"),
        swap_used_bytes: less("SwapTotal:", "SwapFree:"),
        swap_out_bytes: field(vmstat, "pswpout ").and_then(|n| n.checked_mul(page)),
        page_in_bytes: kib(vmstat, "pgpgin "),
        compressor_bytes: kib(meminfo, "Zswap:"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::file::tests::Temporary;
    use super::super::super::meter::{drop_cached, pages_by_mincore};
    use super::super::super::{FileSet, Map, ReadAt};
    use super::*;

    const STATUS: &str = "Name:\ta VmRSS: b\nVmPeak:\t    3060 kB\nVmLck:\t      12 kB\nVmPin:\t       0 kB
VmHWM:\t    1768 kB\nVmRSS:\t    1700 kB\nRssAnon:\t     112 kB\nRssFile:\t    1588 kB\nRssShmem:\t       0 kB
Threads:\t1\n";
    const IO: &str =
        "rchar: 8385\nwchar: 1409\nsyscr: 12\nsyscw: 1\nread_bytes: 4096\nwrite_bytes: 8192
cancelled_write_bytes: 0\n";
    const STAT: &str = "12613 (a) R (b 7) R 12611 12611 9123 0 -1 4194304 106 5 3 2 0 0 0 0 20 0 1 0 580049 3133440 414";
    const MEMINFO: &str = "MemTotal:       24683656 kB\nMemFree:        19972184 kB
MemAvailable:   24172924 kB\nBuffers:           26332 kB\nCached:          4426972 kB\nSwapCached:            0 kB
Mlocked:           12564 kB\nSwapTotal:          1024 kB\nSwapFree:           1000 kB\nZswap:                 8 kB
Zswapped:             40 kB\nAnonPages:         12560 kB\nShmem:              8924 kB\nShmemHugePages:  1 kB\n";
    const VMSTAT: &str =
        "pgpgin 26369077\npgpgout 23717804\npswpin 1\npswpout 2\npgmajfault 15954\n";

    #[test]
    fn a_process_is_parsed() {
        let expected = Process {
            rss_bytes: Some(1700 << 10),
            anon_bytes: Some(112 << 10),
            file_bytes: Some(1588 << 10),
            locked_bytes: Some(12 << 10),
            peak_rss_bytes: Some(1768 << 10),
            n_minor_faults: Some(106),
            n_major_faults: Some(3),
            storage_read_bytes: Some(4096),
            returned_read_bytes: Some(8385),
        };
        assert_eq!(parse_process(STATUS, IO, STAT), expected);
    }

    #[test]
    fn a_system_is_parsed() {
        let expected = System {
            total_bytes: Some(24_683_656 << 10),
            available_bytes: Some(24_172_924 << 10),
            used_bytes: Some((24_683_656 - 19_972_184) << 10),
            file_bytes: Some((4_426_972 - 8924) << 10),
            anon_bytes: Some(12_560 << 10),
            locked_bytes: Some(12_564 << 10),
            swap_used_bytes: Some(24 << 10),
            swap_out_bytes: Some(2 * 16_384),
            page_in_bytes: Some(26_369_077 << 10),
            compressor_bytes: Some(8 << 10),
        };
        assert_eq!(parse_system(MEMINFO, VMSTAT, 16_384), expected);
    }

    #[test]
    fn what_is_missing_or_broken_is_none() {
        for broken in [
            "",
            "VmRSS:",
            "VmRSS: x kB\nrchar:\nMemTotal: -1 kB",
            "1 (a",
            "1 (a) R",
        ] {
            assert_eq!(parse_process(broken, broken, broken), Process::default());
            assert_eq!(parse_system(broken, broken, 4096), System::default());
        }
        let huge = format!("MemTotal: {} kB\nCached: 1 kB\nShmem: 2 kB", u64::MAX);
        let swapped = format!("pswpout {}", u64::MAX);
        assert_eq!(parse_system(&huge, &swapped, 4096), System::default());
        // Cut at each byte: no panic.
        for text in [STATUS, IO, STAT, MEMINFO, VMSTAT] {
            for end in 0..text.len() {
                let cut = &text[..end];
                parse_process(cut, cut, cut);
                parse_system(cut, cut, 4096);
            }
        }
    }

    #[test]
    fn mincore_counts_what_cachestat_counts() {
        let page = page_size() as u64;
        let bytes = vec![7; 40 * page as usize + 5];
        let temporary = Temporary::with("mincore", &bytes);
        let file = File::open(&temporary.0).unwrap();
        let whole = Extent {
            offset: 0,
            len: file.len(),
        };
        match cachestat(&file, whole) {
            Ok(n_pages) => assert_eq!(n_pages, 41),
            Err(error) => return println!("SKIPPED: no cachestat here (error {error})"),
        }
        let check = |what: &str| {
            for (offset, len) in [(0, whole.len), (0, 1), (page - 1, 2), (3 * page, 20 * page)] {
                let range = Extent { offset, len };
                let expected = cachestat(&file, range).ok();
                assert_eq!(pages_by_mincore(&file, range), expected, "{what} {range:?}");
                assert_eq!(mincore(&file, range), expected, "{what} {range:?}");
            }
        };
        check("written");
        drop_cached(&file);
        check("dropped");
        let map = Map::new(&FileSet::open(&temporary.0).unwrap()).unwrap();
        assert_eq!(map.as_slice()[5 * page as usize], 7);
        check("one page touched");
    }
}
