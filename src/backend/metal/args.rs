//! The structures at buffer 0 of the kernels, as `metal-shaders/args.h` has them.
#![allow(unsafe_code)]

/// The structure that a kernel has at buffer 0; see `metal-shaders/args.h`.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding, and holds 4- and 8-byte numbers only.
pub unsafe trait Args: Copy {
    /// Name in `metal-shaders/args.h`.
    const NAME: &'static str;
    /// Name, type (`uint`, `float`, `ulong`) and offset of each field.
    const FIELDS: &'static [(&'static str, &'static str, usize)];

    /// As the kernel reads it.
    fn bytes(&self) -> &[u8] {
        let start: *const Self = self;
        // SAFETY: by the promise of the trait all bytes of the value are set; they live as long as the borrow.
        unsafe { std::slice::from_raw_parts(start.cast(), size_of::<Self>()) }
    }
}

/// Declares a structure of 4- and 8-byte numbers, the largest first.
macro_rules! args {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:tt,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: args!(@rust $type),)* }

        // SAFETY: repr(C); the sizes of its fields, all 4 or 8 with 8 first, leave no padding (asserted below).
        unsafe impl Args for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [(&'static str, &'static str, usize)] =
                &[$((stringify!($field), stringify!($type), std::mem::offset_of!($name, $field)),)*];
        }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<args!(@rust $type)>())* && size_of::<$name>() <= 4096);
    )*};
    (@rust uint) => { u32 };
    (@rust float) => { f32 };
    (@rust ulong) => { u64 };
}

args! {
    /// Of `copy_u32`.
    CopyArgs {
        /// Values.
        n: uint,
    }
    /// Of `embed`.
    EmbedArgs {
        /// Tokens.
        n: uint,
        /// Values of a row.
        cols: uint,
        /// Bytes of a row.
        row_bytes: uint,
    }
    /// Of `matvec` and `matmul`.
    ProductArgs {
        /// Tokens.
        n: uint,
        /// Rows of a group.
        rows: uint,
        /// Columns of a group.
        cols: uint,
        /// Bytes of a row.
        row_bytes: uint,
        /// Values from one token of the input to the next.
        x_stride: uint,
        /// The same of the output.
        y_stride: uint,
        /// 1 where all simdgroups of a group of `matvec` share the columns of the same rows.
        split: uint,
        /// Tokens of a tile of `matmul`.
        tile: uint,
    }
    /// Of the kernels of routed experts.
    ExpertArgs {
        /// Experts a token.
        n_used: uint,
        /// Rows of a matrix.
        rows: uint,
        /// Columns of a matrix.
        cols: uint,
        /// Bytes of a row.
        row_bytes: uint,
        /// Limit of the pre-activations.
        clamp: float,
    }
    /// Of `swiglu`.
    SwigluArgs {
        /// Values.
        n: uint,
        /// Limit of the pre-activations.
        clamp: float,
    }
    /// Of `combine`.
    CombineArgs {
        /// Tokens.
        n: uint,
        /// Experts a token.
        n_used: uint,
        /// Values of an output.
        n_embd: uint,
    }
    /// Of `rms_norm`.
    NormArgs {
        /// Values of a row.
        dim: uint,
        /// Added to the mean square.
        eps: float,
    }
    /// Of `head_norm_rope`.
    HeadNormArgs {
        /// Heads of all tokens.
        n_rows: uint,
        /// Heads of a token.
        n_head: uint,
        /// Values of a head.
        dim: uint,
        /// Rotary values at its end.
        n_rot: uint,
        /// Added to the mean square.
        eps: float,
    }
    /// Of `store_keys`.
    StoreKeysArgs {
        /// Values of a key.
        dim: uint,
        /// Rotary values at its end.
        n_rot: uint,
        /// Bytes of a stored row.
        row_bytes: uint,
        /// Added to the mean square.
        eps: float,
    }
    /// Of `commit_keys`.
    CommitKeysArgs {
        /// First token that is kept.
        first: uint,
        /// Position of the chunk.
        pos: uint,
        /// Rows of the ring.
        window: uint,
        /// Bytes of a row.
        row_bytes: uint,
    }
    /// Of `hyper_mix`.
    HyperMixArgs {
        /// Tokens.
        n: uint,
        /// Outputs of the mixer.
        rows: uint,
        /// Values of a token's streams.
        cols: uint,
        /// Bytes of a row of the mixer.
        row_bytes: uint,
        /// Added to the mean square.
        eps: float,
    }
    /// Of `hyper_entry` and `hyper_head`.
    HyperArgs {
        /// Values of a stream.
        n_embd: uint,
        /// Iterations of the normalisation.
        n_sinkhorn: uint,
        /// Added to gates and sums.
        eps: float,
        /// Added to mean squares.
        rms_eps: float,
        /// Scale of the mixer's pre gates.
        scale_pre: float,
        /// Of its post gates.
        scale_post: float,
        /// Of its matrix.
        scale_matrix: float,
    }
    /// Of `hyper_exit`.
    HyperExitArgs {
        /// Values of a stream.
        n_embd: uint,
    }
    /// Of `compress`.
    CompressArgs {
        /// Position of the chunk.
        pos: uint,
        /// First window that is closed.
        first: uint,
        /// Tokens of a window.
        ratio: uint,
        /// 1 where windows overlap.
        overlap: uint,
        /// Values of a row.
        dim: uint,
        /// Rotary values at its end.
        n_rot: uint,
        /// Tokens of the ring.
        capacity: uint,
        /// Bytes of a stored row.
        row_bytes: uint,
        /// Added to the mean square.
        eps: float,
    }
    /// Of `compress_commit`.
    CompressCommitArgs {
        /// First token that is kept.
        first: uint,
        /// Tokens of the chunk.
        n: uint,
        /// Position of the chunk.
        pos: uint,
        /// Tokens of a window.
        ratio: uint,
        /// Channels.
        width: uint,
        /// Tokens of the ring.
        capacity: uint,
    }
    /// Of `index_queries`.
    IndexQueriesArgs {
        /// Heads of all tokens.
        n_rows: uint,
        /// Heads of a token.
        n_head: uint,
        /// Values of a head.
        dim: uint,
        /// Rotary values at its end.
        n_rot: uint,
    }
    /// Of `index_scores` and `index_select`.
    IndexArgs {
        /// First token.
        first: uint,
        /// Position of the chunk.
        pos: uint,
        /// Tokens of a row.
        ratio: uint,
        /// Heads of a token.
        n_head: uint,
        /// Values of a head.
        dim: uint,
        /// Rows chosen.
        top_k: uint,
        /// Scores of a token.
        stride: uint,
        /// Bytes of a stored row.
        row_bytes: uint,
        /// Scale of a score.
        scale: float,
    }
    /// Of `attend` and `attend_join`.
    AttendArgs {
        /// Position of the chunk.
        pos: uint,
        /// Heads of a token.
        n_head: uint,
        /// Rotary values at the end of a head.
        n_rot: uint,
        /// Keys of the raw window.
        window: uint,
        /// Tokens of a compressed row; 0 without any.
        ratio: uint,
        /// Rows that an indexer chooses; 0 without one.
        top_k: uint,
        /// Bytes of a stored row.
        row_bytes: uint,
        /// Parts of the keys.
        n_parts: uint,
        /// Keys of each.
        part: uint,
        /// Scale of a score.
        scale: float,
    }
    /// Of `route`.
    RouteArgs {
        /// Experts of the layer.
        n_expert: uint,
        /// Experts a token.
        n_used: uint,
        /// 1 where the choice has a bias.
        has_bias: uint,
        /// 1 where the choice is given.
        is_preset: uint,
        /// Sum of the weights.
        scale: float,
    }
}
