#!/usr/bin/env python3
"""Compares the calls that our Metal messages compile to on arm64 with those of a compiler that knows Objective-C.

    scripts/metal_abi.py IR [clang]

IR is this crate as LLVM IR for aarch64-apple-darwin, or the folder where cargo leaves it (then the newest is meant):

    cargo rustc --lib --target aarch64-apple-darwin -- --emit=llvm-ir -C opt-level=0

The other side is made from tests/metal/selectors.txt, not from our table: one Objective-C function a method, compiled by
clang. Each call of objc_msgSend must have the same types, and the same attributes that decide where values travel.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
METAL = ROOT / "src/backend/metal"

# What the runtime's codes are in C.
C_TYPES = {
    "v": "void", "@": "id", "@?": "void *", ":": "SEL", "B": "_Bool", "d": "double", "Q": "unsigned long", "q": "long",
    "*": "const char *", "^v": "void *", "^@": "id *", "{MTLSize=QQQ}": "MTLSize",
}
# Attributes that decide how a value travels.
DECISIVE = ("zeroext", "signext", "inreg", "sret", "byval")


def methods():
    """Receiver, selector and types of each line of the list."""
    for line in (ROOT / "tests/metal/selectors.txt").read_text().splitlines():
        if not line.startswith("#"):
            receiver, selector, types, _ = line.split(" ")
            yield receiver, selector, re.findall(r"\{.*?\}|\^.|@\?|.", types)


def objective_c():
    """One function a method, and a protocol for each so that its types stand alone."""
    yield "typedef struct { unsigned long width, height, depth; } MTLSize; typedef struct objc_selector *SEL;"
    for n, (_, selector, types) in enumerate(methods()):
        result, arguments = C_TYPES[types[0]], [C_TYPES[t] for t in types[3:]]
        parts = selector.split(":")
        assert len(parts) - 1 == len(arguments), selector
        names = [f"a{i}" for i in range(len(arguments))]
        declared = " ".join(f"{p}:({t}){n}" for p, t, n in zip(parts, arguments, names)) or selector
        sent = " ".join(f"{p}:{n}" for p, n in zip(parts, names)) or selector
        taken = "".join(f", {t} {n}" for t, n in zip(arguments, names))
        back = "" if result == "void" else "return "
        yield f"@protocol P{n} - ({result}){declared}; @end"
        yield f"{result} call_{n}(id<P{n}> o{taken}) {{ {back}[o {sent}]; }}"


def of_rust():
    """Module and function of our table: receiver and selector."""
    text = (METAL / "messages.rs").read_text()
    found, module, receiver = {}, None, None
    for line in text[text.rindex("\nmessages! {"):].splitlines():
        if head := re.match(r'    (\w+) "(\S+)" \{', line):
            module, receiver = head.groups()
        for name, selector in re.findall(r'fn (\w+) "(\S+?)"', line):
            found[module, name] = receiver, selector
    return found


def value(text):
    """Type and decisive attributes of a result or an argument."""
    text = text.strip()
    words = re.sub(r"\([^()]*\)", "", text).split()
    type_ = re.search(r"\b(void|ptr|double|i\d+)\b", " ".join(words)).group(1)
    return (type_, *sorted(w for w in words if w in DECISIVE))


def call(line):
    """Result and arguments of a line that calls objc_msgSend."""
    result, arguments = re.search(r"call (.*?)@objc_msgSend\((.*)\)", line).groups()
    return value(result), [value(a) for a in re.split(r",(?![^()]*\))", arguments)]


def calls(ir, name_of):
    """The call in each function that is known by its name."""
    found, current = {}, None
    for line in ir:
        if line.startswith("define"):
            current = name_of(re.search(r"@([\w.$]+)\(", line))
        elif current is not None and "@objc_msgSend(" in line and " call " in line:
            assert current not in found, f"{current} calls twice"
            found[current] = call(line)
    return found


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    clang = sys.argv[2] if len(sys.argv) > 2 else shutil.which("clang-19") or shutil.which("clang")
    if clang is None:
        print("skipped: the calls of Metal's messages (needs clang)")
        return
    ours_by_name = of_rust()

    def of_ours(symbol):
        path = symbol and re.search(r"8messages(\d+)", symbol.group(1))
        if not path:
            return None
        text = symbol.group(1)[path.end(1):]
        module, rest = text[: int(path.group(1))], text[int(path.group(1)):]
        length = re.match(r"\d+", rest)
        if not length:
            return None
        name = rest[length.end():][: int(length.group())]
        return ours_by_name.get((module, name.removeprefix("_")))

    listed = list(methods())
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "calls.m")
        source.write_text("\n".join(objective_c()))
        command = [clang, "-target", "arm64-apple-macos14", "-x", "objective-c", "-O1", "-S", "-emit-llvm", "-o", "-", source]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            print(f"skipped: the calls of Metal's messages ({clang} cannot compile them: {made.stderr.strip()})")
            return
    number = lambda symbol: int(symbol.group(1)[5:]) if symbol and symbol.group(1).startswith("call_") else None
    theirs = calls(made.stdout.splitlines(), number)
    given = pathlib.Path(sys.argv[1])
    if given.is_dir():
        given = max(given.glob("infall-*.ll"), key=lambda path: path.stat().st_mtime)
    with given.open(encoding="utf-8") as ir:
        ours = calls(ir, of_ours)
    faults = 0
    for n, (receiver, selector, _) in enumerate(listed):
        if ours.get((receiver, selector)) != theirs[n]:
            faults += 1
            print(f"{receiver} {selector}:\n  ours   {ours.get((receiver, selector))}\n  clang's {theirs[n]}")
    if faults or len(ours) != len(listed):
        sys.exit(f"{faults} of {len(listed)} messages differ from clang's; the crate sends {len(ours)}")
    print(f"{len(listed)} messages compile to the calls that clang makes of them")


main()
