//! One file a family of kernels: which kernel serves an operation, with which arguments, on which grid.
