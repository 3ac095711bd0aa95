#!/bin/sh
# Every kernel once under g++'s sanitizers: for what C++ leaves undefined (seconds), then for races (minutes).
set -eu
cd "$(dirname "$0")/.."

libtsan=$(g++ -print-file-name=libtsan.so)
case $libtsan in
/*) ;;
*)
    echo "needs g++ with libtsan" >&2
    exit 1
    ;;
esac

# kernels SANITIZER: one test, which runs them all.
kernels() {
    printf '\n== %s\n' "$1"
    INFALL_METAL_SIM_SANITIZE=$1 cargo test --release --quiet --features metal-sim --test metal -- \
        --exact coverage::the_cases_run_every_kernel | tee target/sanitize.txt
    grep -q '^test result: ok. 1 passed' target/sanitize.txt
}

kernels undefined
# Only the test may have ThreadSanitizer, not cargo.
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_PRELOAD=$libtsan"
# It sees what Rust code reads and writes through the C library, but not what orders it.
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
kernels thread
