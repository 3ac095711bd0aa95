//! What only Linux has.
#![allow(unsafe_code)]

pub mod meter;

use super::{DirectFile, File, NewFile};
use crate::error::Result;
use crate::units::Extent;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes that one hint asks for: the system reads no more of it than the device's read-ahead window.
const HINT: usize = 128 << 10;

/// Reads pages of a mapping of the file and maps them; `Ok(false)` before Linux 5.14, which cannot.
pub fn populate(_: &File, range: Extent, start: *mut libc::c_void) -> std::io::Result<bool> {
    let len = range.len as usize;
    // All reads begin before the first is awaited.
    for at in (0..len).step_by(HINT) {
        // SAFETY: the caller names pages of a live mapping; the advice changes no contents.
        unsafe { libc::madvise(start.byte_add(at), HINT.min(len - at), libc::MADV_WILLNEED) };
    }
    loop {
        // SAFETY: as above.
        if unsafe { libc::madvise(start, len, libc::MADV_POPULATE_READ) } == 0 {
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINVAL) => return Ok(false),
            Some(libc::EINTR | libc::EAGAIN) => {}
            _ => return Err(error),
        }
    }
}

/// Asks for large pages behind a buffer; whether they come is not reported.
pub fn prefer_huge_pages(buf: &super::AlignedBuf) {
    let bytes = buf.as_slice();
    // SAFETY: the range is one mapping of ours; the advice changes no contents.
    unsafe { libc::madvise(buf.start().cast(), bytes.len(), libc::MADV_HUGEPAGE) };
}

/// The alignment that every block device accepts, used where the system does not tell one.
const DIRECT_ALIGNMENT: usize = 4096;

/// Drops the pages that lie wholly in `range` from the page cache, unless some process has them mapped.
pub fn drop_cached(file: &File, range: Extent) {
    let fd = file.as_fd().as_raw_fd();
    let clamp = |n: u64| libc::off_t::try_from(n).unwrap_or(libc::off_t::MAX);
    let (offset, len) = (clamp(range.offset), clamp(range.len));
    // SAFETY: the descriptor is open through the call; no contents change.
    unsafe { libc::posix_fadvise(fd, offset, len, libc::POSIX_FADV_DONTNEED) };
}

/// Has the system read what is asked for and nothing behind it.
pub fn read_without_ahead(file: &File) {
    // SAFETY: the descriptor is open through the call; no contents change.
    unsafe { libc::posix_fadvise(file.as_fd().as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

/// Opens with O_DIRECT, or through the page cache where the file system knows no such reads.
pub fn open_direct(path: &Path) -> Result<DirectFile> {
    let cached = File::open(path)?;
    if let Some(name) = memory_file_system(&cached) {
        let why = format!("{name} keeps its files in memory");
        return Ok(DirectFile::cached(cached, why));
    }
    match File::open_with(path, libc::O_DIRECT | libc::O_NONBLOCK) {
        Err(error) => Ok(DirectFile::cached(cached, error.to_string())),
        Ok(file) => match direct_alignment(&file) {
            Some(0) => Ok(DirectFile::cached(
                cached,
                "the file system has no direct reads".into(),
            )),
            Some(alignment) => DirectFile::new(file, cached, alignment),
            None => DirectFile::new(file, cached, DIRECT_ALIGNMENT),
        },
    }
}

/// Makes a file for writing with O_DIRECT, or through the page cache where the file system knows no such writes or wants
/// more than whole pages of them; tells whether it is the latter.
pub fn create_direct(path: &Path, options: &mut OpenOptions) -> std::io::Result<(fs::File, bool)> {
    let file = options.open(path)?;
    let mut again = OpenOptions::new();
    again
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW);
    let suits = |file: &fs::File| match direct_alignment(file) {
        Some(alignment) => (1..=NewFile::ALIGNMENT).contains(&alignment),
        None => true,
    };
    match again.open(path) {
        Ok(direct) if suits(&direct) => Ok((direct, false)),
        _ => Ok((file, true)),
    }
}

/// Drops a file that was written to the disk from the page cache.
pub fn drop_written(file: &fs::File) {
    // SAFETY: the descriptor is open through the call; no contents change.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// File systems without a device beneath, by the numbers of linux/magic.h. tmpfs accepts O_DIRECT since Linux 6.6, and
/// then copies from the page cache as before.
const MEMORY_FILE_SYSTEMS: [(u32, &str); 3] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x9584_58F6, "hugetlbfs"),
];

/// The file system of the file, if it is one of those.
fn memory_file_system(file: &File) -> Option<&'static str> {
    // SAFETY: all-zero is a valid statfs buffer.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open through the call, and `found` may be written.
    let code = unsafe { libc::fstatfs(file.as_fd().as_raw_fd(), &raw mut found) };
    // The type is signed or not, of 32 or 64 bits, as the C library has it; the numbers have 32.
    let known = MEMORY_FILE_SYSTEMS.iter();
    let mut same = known.filter(|(magic, _)| code == 0 && found.f_type as u32 == *magic);
    same.next().map(|(_, name)| *name)
}

/// What statx says of addresses and offsets, 0 where direct reads are impossible, `None` where it says nothing.
fn direct_alignment(file: &impl AsFd) -> Option<usize> {
    // SAFETY: all-zero is a valid statx buffer.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open through the call, the path is empty as AT_EMPTY_PATH asks, and `found` may
    // be written.
    let code = unsafe {
        libc::statx(
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut found,
        )
    };
    if code != 0 || found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    let alignment = found.stx_dio_mem_align.max(found.stx_dio_offset_align) as usize;
    // Whole pages keep every file system content; they cost at most two pages a read.
    Some(if alignment == 0 {
        0
    } else {
        alignment.max(DIRECT_ALIGNMENT)
    })
}

pub fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = field(&meminfo, "MemAvailable:")?.checked_mul(1024)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let allowed = group_dirs(&groups)
        .iter()
        .filter_map(|(dir, files)| group_room(dir, files))
        .min();
    Some(allowed.map_or(machine, |room| room.min(machine)))
}

/// Where one version of control groups keeps its figures.
struct GroupFiles {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Names in `memory.stat` of the page cache, which is counted as used but can be dropped.
    cache: [&'static str; 2],
}

const V2: GroupFiles = GroupFiles {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    cache: ["inactive_file ", "active_file "],
};

const V1: GroupFiles = GroupFiles {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: ["total_inactive_file ", "total_active_file "],
};

/// The directories of the groups in `/proc/self/cgroup` that bound memory, with all groups around them.
fn group_dirs(groups: &str) -> Vec<(PathBuf, &'static GroupFiles)> {
    let mut dirs = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let files = match controllers {
            "" => &V2,
            list if list.split(',').any(|c| c == "memory") => &V1,
            _ => continue,
        };
        let root = Path::new(files.root);
        let dir = root.join(path.trim_start_matches('/'));
        let around = dir.ancestors().take_while(|d| d.starts_with(root));
        dirs.extend(around.map(|d| (d.to_path_buf(), files)));
    }
    dirs
}

/// What the group at `dir` may still take, or `None` when it has no limit.
fn group_room(dir: &Path, files: &GroupFiles) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number(files.limit)?; // the word "max" is no number: no limit
    let stat = read("memory.stat").unwrap_or_default();
    let cache: u64 = files
        .cache
        .iter()
        .filter_map(|name| field(&stat, name))
        .sum();
    let used = number(files.used)?.saturating_sub(cache);
    Some(limit.saturating_sub(used))
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Tells the C library to give memory back. By itself it keeps what large pieces were freed, as its bound between pieces
/// that are mapped and those that are not rises with them, and each of many threads fills a heap of its own.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    for (name, value) in [
        (libc::M_MMAP_THRESHOLD, 128 << 10),
        (libc::M_TRIM_THRESHOLD, 1 << 20),
        (libc::M_ARENA_MAX, 2),
    ] {
        // SAFETY: it takes two numbers, and allocations of before stay as they are.
        unsafe { libc::mallopt(name, value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_groups_are_found() {
        let text = "MemTotal: 8 kB\nMemAvailable:   1234 kB\ninactive_file 5\n";
        assert_eq!(field(text, "MemAvailable:"), Some(1234));
        assert_eq!(field(text, "inactive_file "), Some(5));
        assert_eq!(field(text, "Missing:"), None);

        let dirs = group_dirs("5:cpu,memory:/a/b\n3:cpuset:/x\n0::/c\nbroken\n");
        let names: Vec<_> = dirs.iter().map(|(d, _)| d.display().to_string()).collect();
        let expected = [
            "/sys/fs/cgroup/memory/a/b",
            "/sys/fs/cgroup/memory/a",
            "/sys/fs/cgroup/memory",
            "/sys/fs/cgroup/c",
            "/sys/fs/cgroup",
        ];
        assert_eq!(names, expected);
    }
}
