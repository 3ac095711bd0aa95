#!/usr/bin/env python3
"""General categories of Unicode as the table of the pre-tokenizer.

    scripts/unicode_tables.py > src/text/unicode.rs

Needs the character database 16.0.0, the version that the reference tokenizer's regular expressions use:
`unicodedata` of Python 3.14, or the package `unicodedata2` 16.0.0 with an older Python.
"""
import sys
import unicodedata

VERSION = "16.0.0"
# The classes in the order of `Class` in src/text/pretokenize.rs; the rest (Z, C) is 0.
CLASSES = " LMNPS"
PER_LINE = 10

if unicodedata.unidata_version != VERSION:
    import unicodedata2 as unicodedata
if unicodedata.unidata_version != VERSION:
    sys.exit(f"character database {unicodedata.unidata_version}, expected {VERSION}")

runs = []
last = None
for code in range(0x110000):
    found = max(CLASSES.find(unicodedata.category(chr(code))[0]), 0)
    if found != last:
        runs.append(code << 3 | found)
        last = found

print(f"""\
//! Written by scripts/unicode_tables.py; do not edit.
//!
//! Source: the Unicode Character Database {VERSION}, property General_Category.

/// Runs of code points of one class, ascending: first code point << 3 | class, where 1 is L, 2 M, 3 N, 4 P, 5 S
/// and 0 the rest.
#[rustfmt::skip]
pub const RUNS: [u32; {len(runs)}] = [""")
for i in range(0, len(runs), PER_LINE):
    print("    " + " ".join(f"0x{run:x}," for run in runs[i:i + PER_LINE]))
print("];")
