//! The structures at buffer 0 of the kernels, as `metal-shaders/args.h` has them.
#![allow(unsafe_code)]

use super::encode::Args;

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
    /// Of `copy_f32`.
    CopyArgs {
        /// Values.
        n: uint,
    }
}
