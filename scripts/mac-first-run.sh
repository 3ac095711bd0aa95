#!/bin/sh
# The first run of the Metal backend on a Mac: all its tests with Metal's own checks on, a benchmark, and one file that tells
# how it went.
#
#   scripts/mac-first-run.sh [MODEL]      # writes infall-mac-report.txt; MODEL as for -m
set -eu
cd "$(dirname "$0")/.."
[ "$(uname -s)" = Darwin ] || { echo "this is for a Mac, found $(uname -s)" >&2; exit 1; }
report=infall-mac-report.txt
model=${1:-models/tiny-q4.gguf}

# part TITLE COMMAND...: its output in the report, and how it ended; the next part runs all the same.
part() {
    title=$1
    shift
    printf '\n== %s: %s\n' "$title" "$*" | tee -a "$report"
    if "$@" >>"$report" 2>&1; then end="done"; else end="ended with $?"; fi
    printf -- '-- %s: %s\n' "$title" "$end" | tee -a "$report"
}

: >"$report"
part commit git rev-parse HEAD
part machine sysctl -n machdep.cpu.brand_string hw.memsize hw.pagesize
part system sw_vers
part "Metal's compiler" xcrun -sdk macosx metal --version
part build cargo build --release --all-features
# The table of tests/metal.rs, on the device; Metal checks each call and each access of a kernel.
part operations env MTL_DEBUG_LAYER=1 MTL_SHADER_VALIDATION=1 cargo test --release --all-features --test metal -- --nocapture
part models env INFALL_TEST_ALL=1 cargo test --release --all-features --test metal -- --nocapture
for strategy in full baseline residency-lru nommap; do
    part "$strategy" target/release/infall run -m "$model" --backend metal --strategy "$strategy" --temp 0 -n 64 -p "What is Unix?"
    part "$strategy, CPU" target/release/infall run -m "$model" --backend cpu --strategy "$strategy" --temp 0 -n 64 -p "What is Unix?"
done
part "speed, Metal" target/release/infall bench -m "$model" --backend metal -p 512 -n 128
part "speed, CPU" target/release/infall bench -m "$model" --backend cpu -p 512 -n 128
part memory vm_stat
echo "written: $report"
