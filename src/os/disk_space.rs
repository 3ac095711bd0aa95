//! Room on a file system.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes that this user may still write to the file system of `path`, which must exist; `None` when the system
/// does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: all-zero is a valid statvfs buffer: it holds numbers only.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and lives through the call, and `found` may be written.
    let code = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    // The fields have 32 bits on one system and 64 on the other.
    #[allow(clippy::unnecessary_cast)]
    let (blocks, block_bytes) = (found.f_bavail as u64, found.f_frsize as u64);
    (code == 0).then(|| blocks.saturating_mul(block_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_and_a_missing_one_has_none() {
        assert!(free_space(&std::env::temp_dir()).is_some_and(|n| n > 0));
        assert_eq!(free_space(Path::new("/nonexistent/folder")), None);
    }
}
