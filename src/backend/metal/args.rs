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
}
