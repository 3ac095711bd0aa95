"""Runs a command-line client in a folder and a home of its own, so that it sees no settings and no keys of the user."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common

HERE = Path(tempfile.mkdtemp(prefix="infall-client-"))
HOME, WORK = HERE / "home", HERE / "work"
for folder in (HOME, WORK):
    folder.mkdir()


def run(program, *words, timeout=300, **fields):
    """Output of a program that ended well; it comes from the npm folder, or else from this Python's."""
    at = Path(common.NODE) / "node_modules" / ".bin" / program
    if not at.exists():
        at = Path(sys.executable).parent / program
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE") if name in os.environ}
    env = {**keep, "HOME": str(HOME), **fields}
    done = subprocess.run(
        [str(at), *words],
        cwd=WORK,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {(done.stderr or done.stdout)[-600:]}"
    return done.stdout, done.stderr
