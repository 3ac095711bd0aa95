//! The kernels by name. `tests/metal` holds this table against the sources in `metal-shaders/`.

use crate::quant::Format;

macro_rules! kernels {
    (alone { $($kernel:ident $name:literal $access:literal,)* } of_formats { $($family:ident $prefix:literal $family_access:literal,)* }) => {
        /// A kernel of `metal-shaders/`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Kernel {
            $($kernel,)*
            $($family(Format),)*
        }

        impl Kernel {
            /// All of them.
            pub fn all() -> Vec<Kernel> {
                let mut all = vec![$(Kernel::$kernel,)*];
                $(all.extend(FORMATS.iter().map(|(format, _)| Kernel::$family(*format)));)*
                all
            }

            /// Its name in the library.
            pub fn name(self) -> String {
                match self {
                    $(Kernel::$kernel => $name.into(),)*
                    $(Kernel::$family(format) => format!("{}_{}", $prefix, suffix(format)),)*
                }
            }

            /// What it does with its buffers 1, 2, ...: `r` reads, `w` writes (and may read).
            pub fn access(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $access,)*
                    $(Kernel::$family(_) => $family_access,)*
                }
            }
        }
    };
}

kernels! {
    alone {
        Attend "attend" "rrrrrrrww",
        AttendJoin "attend_join" "rrw",
        Combine "combine" "rw",
        CommitKeys "commit_keys" "rw",
        Compress "compress" "rrrrrrw",
        CompressCommit "compress_commit" "rrrw",
        Copy "copy_u32" "rw",
        HeadNormRope "head_norm_rope" "rw",
        HyperEntry "hyper_entry" "rrrrww",
        HyperExit "hyper_exit" "rrw",
        HyperHead "hyper_head" "rrrrw",
        IndexQueries "index_queries" "rw",
        IndexScores "index_scores" "rrrw",
        IndexSelect "index_select" "rw",
        RmsNorm "rms_norm" "rw",
        Route "route" "rrww",
        StoreKeys "store_keys" "rrrw",
        Swiglu "swiglu" "rw",
    }
    of_formats {
        Embed "embed" "rrw",
        Matvec "matvec" "rrw",
        Matmul "matmul" "rrw",
        ExpertGateUp "expert_gate_up" "rrrrw",
        ExpertDown "expert_down" "rrrw",
        ExpertGateUpMany "expert_gate_up_many" "rrrrrw",
        ExpertDownMany "expert_down_many" "rrrrw",
        HyperMix "hyper_mix" "rrw",
    }
}

/// Formats of weights, and what kernels for them end in.
pub(super) const FORMATS: [(Format, &str); 8] = [
    (Format::F32, "f32"),
    (Format::F16, "f16"),
    (Format::Bf16, "bf16"),
    (Format::Q8_0, "q8_0"),
    (Format::Q4K, "q4_k"),
    (Format::Q2K, "q2_k"),
    (Format::Iq2Xxs, "iq2_xxs"),
    (Format::Mxfp4, "mxfp4"),
];

fn suffix(format: Format) -> &'static str {
    let found = FORMATS.iter().find(|(f, _)| *f == format);
    found.map_or("none", |(_, suffix)| suffix)
}
