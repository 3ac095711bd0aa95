//! The kernels by name. `tests/metal` holds this table against the sources in `metal-shaders/`.

macro_rules! kernels {
    ($($kernel:ident $name:literal $access:literal,)*) => {
        /// A kernel of `metal-shaders/`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Kernel { $($kernel,)* }

        impl Kernel {
            /// All of them.
            pub const ALL: &'static [Kernel] = &[$(Kernel::$kernel,)*];

            /// Its name in the library.
            pub fn name(self) -> &'static str {
                match self { $(Kernel::$kernel => $name,)* }
            }

            /// What it does with its buffers 1, 2, ...: `r` reads, `w` writes (and may read).
            pub fn access(self) -> &'static str {
                match self { $(Kernel::$kernel => $access,)* }
            }
        }
    };
}

kernels! {
    Copy "copy_u32" "rw",
}
