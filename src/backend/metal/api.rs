//! Placeholder.
/// A buffer.
pub struct Buffer {}
