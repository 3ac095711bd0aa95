#!/bin/sh
# All checks of this repository: format, lints as errors, documentation, every set of features, all tests.
#
#   scripts/check.sh          everything
#   scripts/check.sh quick    without the tests
set -eu
cd "$(dirname "$0")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

# macOS is type-checked where that can be done; nothing runs. A compiler looks at a crate with one core, so that this goes
# on beside the other checks.
macos() {
    darwin=aarch64-apple-darwin
    for features in "" "--all-targets --all-features"; do
        if [ -x ../shared/tools/darwin-check ]; then
            # shellcheck disable=SC2086
            CARGO_TARGET_DIR=target/darwin step ../shared/tools/darwin-check check --quiet $features
        elif [ -d "$(rustc --print sysroot)/lib/rustlib/$darwin" ]; then
            # shellcheck disable=SC2086
            step cargo check --quiet --target "$darwin" $features
        else
            echo "skipped: the type check for macOS (rustup target add $darwin)"
            break
        fi
    done
    # What Metal's messages compile to there, and a link against stubs; LIBSYSTEM_TBD is the stub of libSystem.
    if [ -x ../shared/tools/darwin-check ]; then
        (
            export CARGO_TARGET_DIR=target/darwin
            step ../shared/tools/darwin-check rustc --quiet --lib -- --emit=llvm-ir -C opt-level=0 -C debuginfo=0
            step scripts/metal_abi.py "target/darwin/darwin-check/$darwin/debug/deps"
            step scripts/metal-link.sh "${LIBSYSTEM_TBD:-none}" ../shared/tools/darwin-check
        )
    else
        echo "skipped: the calls of Metal's messages and the link for macOS (need a toolchain for $darwin)"
    fi
}

step cargo fmt --check
mkdir -p target
macos >target/macos.log 2>&1 &
macos=$!
# A feature adds a strategy and changes no other, so that tests are looked at with all of them only.
for features in "" "--features nommap" "--features residency-lru" "--all-targets --all-features"; do
    # shellcheck disable=SC2086  # an empty set is no argument, a set is several
    step cargo clippy --release --quiet $features -- -D warnings
done
if command -v shellcheck >/dev/null; then
    step shellcheck scripts/*.sh .ci/run
else
    echo "skipped: the check of the shell scripts (needs shellcheck)"
fi
wait "$macos" || {
    cat target/macos.log
    exit 1
}
cat target/macos.log
RUSTDOCFLAGS="-D warnings" step cargo doc --release --quiet --no-deps --document-private-items --all-features

if [ "${1:-}" = quick ]; then
    echo "quick: the tests were skipped"
    exit 0
fi
# The tests run every kernel table of this machine; they name what they skip.
step cargo test --release --all-features
# The main job.
answer=$(cargo run --release --quiet --all-features -- run --temp 0 -n 64 --quiet -p "What is Unix?")
# shellcheck disable=SC1111  # the quotes are the answer's own
case $answer in
"[In the authors' words, “A weak pun on Multics”; "*) printf '\nthe main job answers\n' ;;
*)
    printf '\nthe main job answers wrongly:\n%s\n' "$answer" >&2
    exit 1
    ;;
esac
