//! Memory of ours that a device reads in place.

use super::Map;
use crate::error::Result;
use std::sync::Arc;

/// Memory that a device shares starts at, and is as long as, a multiple of this: the largest page of the supported
/// systems.
pub const SHARED_PAGE: usize = 16 << 10;

/// Addresses of whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pages {
    /// Address of the first byte, a multiple of [`SHARED_PAGE`].
    pub start: usize,
    /// Bytes, a multiple of [`SHARED_PAGE`].
    pub len: usize,
}

impl Pages {
    /// The pages around some bytes.
    pub fn around(bytes: &[u8]) -> Pages {
        let first = bytes.as_ptr().expose_provenance();
        let start = first / SHARED_PAGE * SHARED_PAGE;
        let end = (first + bytes.len()).next_multiple_of(SHARED_PAGE);
        Pages {
            start,
            len: end - start,
        }
    }
}

/// A device that reads memory of ours in place.
pub trait Device: Send + Sync {
    /// The device may read these pages from now on. Those of a mapping may be kept by it, with the mapping, for a while
    /// after they are taken back; others may go at once then.
    ///
    /// Errors: it refuses them.
    fn share(&self, pages: Pages, of: Option<&Arc<Map>>) -> Result<()>;

    /// It does not any more, and none of its work that does is left.
    fn take_back(&self, pages: Pages);
}

/// Pages that are shared as long as this lives.
pub struct Shared {
    device: Arc<dyn Device>,
    pages: Pages,
}

impl Shared {
    /// Shares the pages around some bytes, of a mapping or else of memory that outlives the value.
    ///
    /// Errors: the device refuses them.
    pub fn new(device: &Arc<dyn Device>, bytes: &[u8], of: Option<&Arc<Map>>) -> Result<Shared> {
        let pages = Pages::around(bytes);
        device.share(pages, of)?;
        Ok(Shared {
            device: Arc::clone(device),
            pages,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.device.take_back(self.pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What is shared now.
    #[derive(Default)]
    struct Noted(Mutex<Vec<Pages>>);

    impl Device for Noted {
        fn share(&self, pages: Pages, _: Option<&Arc<Map>>) -> Result<()> {
            self.0.lock().unwrap().push(pages);
            Ok(())
        }

        fn take_back(&self, pages: Pages) {
            self.0.lock().unwrap().retain(|p| *p != pages);
        }
    }

    #[test]
    fn pages_are_shared_as_long_as_the_value_lives() {
        let noted = Arc::new(Noted::default());
        let device: Arc<dyn Device> = Arc::clone(&noted) as _;
        let buf = super::super::AlignedBuf::zeroed(3 * SHARED_PAGE + 5).unwrap();
        let pages = Pages::around(buf.as_slice());
        assert_eq!(
            pages.start,
            buf.as_slice().as_ptr().addr(),
            "memory of ours starts at a shared page"
        );
        assert_eq!(pages.len, 4 * SHARED_PAGE);
        let inside_bytes = &buf.as_slice()[SHARED_PAGE + 7..SHARED_PAGE + 8];
        let inside = Pages::around(inside_bytes);
        assert_eq!(
            (inside.start, inside.len),
            (pages.start + SHARED_PAGE, SHARED_PAGE)
        );
        let shared = [
            Shared::new(&device, buf.as_slice(), None).unwrap(),
            Shared::new(&device, inside_bytes, None).unwrap(),
        ];
        assert_eq!(*noted.0.lock().unwrap(), [pages, inside]);
        drop(shared);
        assert!(noted.0.lock().unwrap().is_empty());
    }
}
