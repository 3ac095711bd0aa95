#!/bin/sh
# Damages requests and JSON at random for so many minutes: the mutator of tests/fuzz.rs, with a new seed.
#
#   scripts/fuzz.sh MINUTES
#
# It prints the seed and what came out how often; an input that breaks something is shown, and the exit code is not 0.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
'' | *[!0-9]*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
export INFALL_FUZZ_SECONDS=$(($1 * 60))
exec nice cargo test --release --test fuzz -- --nocapture
