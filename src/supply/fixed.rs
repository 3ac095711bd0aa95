//! The weights every token uses.

use crate::error::Result;
use crate::os::{Memory, Slice};
use crate::units::Extent;
use std::sync::Arc;

/// Fixed weights by their place in the file.
pub struct Fixed {
    file: Arc<Memory>,
}

impl Fixed {
    /// All weights in a memory that holds the whole file.
    pub fn whole_file(file: Arc<Memory>) -> Fixed {
        Fixed { file }
    }

    /// The bytes of a tensor.
    ///
    /// Errors: the extent does not lie in the file.
    pub fn slice(&self, extent: Extent) -> Result<Slice> {
        Slice::new(&self.file, extent)
    }
}
