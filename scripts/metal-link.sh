#!/bin/sh
# Links the program for macOS on a system that is none, against stub libraries, and looks at what came out.
#
#   scripts/metal-link.sh LIBSYSTEM.tbd CARGO-COMMAND...
#
# LIBSYSTEM.tbd: the stub of macOS' libSystem, as the Python package `ziglang` carries it. CARGO-COMMAND: cargo as it builds for
# aarch64-apple-darwin here; `rustc --release --bin infall -- ...` is added to it. The stubs in tests/metal/tbd are a list of
# what we import besides: a function that is in none of them fails the link. Nothing is run.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
libsystem=$1
shift

# Its name here; exiting is for the caller, as this runs in a shell of its own.
tool() { command -v "$1" || command -v "$1-19" || { echo "skipped: the link for macOS (needs $1)" >&2; return 1; }; }
linker=$(tool ld64.lld) || exit 0
nm=$(tool llvm-nm) || exit 0
objdump=$(tool llvm-objdump) || exit 0
[ -f "$libsystem" ] || { echo "skipped: the link for macOS (needs a stub of libSystem)" >&2; exit 0; }

sdk=$(mktemp -d)
trap 'rm -rf "$sdk"' EXIT
mkdir -p "$sdk/usr/lib"
# Newer stubs list the stricter architecture only, and one that linkers do not know yet; the functions are the same.
sed 's/arm64e-macos/arm64-macos/g; s/arm64e\.x1-/arm64e-/g' "$libsystem" >"$sdk/usr/lib/libSystem.tbd"
for part in c m; do ln -s libSystem.tbd "$sdk/usr/lib/lib$part.tbd"; done
cp tests/metal/tbd/lib*.tbd "$sdk/usr/lib/"
for framework in Metal Foundation CoreGraphics; do
    mkdir -p "$sdk/System/Library/Frameworks/$framework.framework"
    cp "tests/metal/tbd/$framework.tbd" "$sdk/System/Library/Frameworks/$framework.framework/"
done

# The name of the program in the last line that tells of one.
program=$(SDKROOT=$sdk MACOSX_DEPLOYMENT_TARGET=14.0 "$@" rustc --release --bin infall --message-format=json-render-diagnostics -- \
    -C linker-flavor=ld64.lld -C "linker=$linker" -C strip=none |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
[ -n "$program" ] || { echo "the link for macOS failed" >&2; exit 1; }

expect() { # what, text, pattern
    printf '%s\n' "$2" | grep -q "$3" || { printf '%s: expected %s in\n%s\n' "$1" "$3" "$2" >&2; exit 1; }
}
loads=$("$objdump" --macho --private-headers "$program")
for library in /usr/lib/libobjc.A.dylib /usr/lib/libSystem.B.dylib Metal.framework/Versions/A/Metal \
    Foundation.framework/Versions/C/Foundation CoreGraphics.framework/Versions/A/CoreGraphics; do
    expect "libraries loaded" "$loads" "$library"
done
expect "the program" "$loads" "LC_MAIN"
expect "the program" "$loads" "LC_CODE_SIGNATURE"
expect "the oldest system" "$loads" "minos 14.0"
imports=$("$nm" -m -u "$program")
for symbol in objc_msgSend objc_getClass sel_registerName objc_retain objc_release objc_autoreleasePoolPush \
    objc_autoreleasePoolPop; do
    expect "imports" "$imports" "_$symbol (from libobjc)"
done
expect "imports" "$imports" "_MTLCreateSystemDefaultDevice (from Metal)"
# Imported only where compiled kernels are built in.
grep -q '_dispatch_data_create[, ]' "$libsystem" || { echo "libSystem has no dispatch_data_create" >&2; exit 1; }
echo "links for macOS: $(printf '%s\n' "$imports" | wc -l) imports, all from the libraries expected"
