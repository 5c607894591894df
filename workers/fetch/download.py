"""Downloads one file with curl: a broken connection is gone on with, in this call and in the next one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from trimode.core.errors import ConfigError, WorkerError
from trimode.core.processes import die_with_parent

ATTEMPTS = 5
"""Attempts in a row that may bring nothing."""
STALLED_S = 60
"""Seconds without a byte after which a connection counts as broken."""
WRITE_ERROR = 23
LASTING = {
    1: "the address has no protocol that curl knows",
    3: "the address is malformed",
    6: "the host is unknown",
    WRITE_ERROR: "the disk is full, or the file cannot be written",
    -signal.SIGXFSZ: "the file may not grow any more (ulimit -f)",
    60: "its certificate is not trusted",
}
"""Exit statuses of curl after which another attempt would not help."""
REFUSED = 22
"""Exit status of curl for an HTTP status from 400."""


def download(url: str, token: str | None, part: Path, size: int) -> None:
    """Appends to `part` until it has `size` bytes. `token`: goes to this address alone, over curl's standard input.

    Raises ConfigError without curl or for a full disk, WorkerError when the server does not give the file.
    """
    if shutil.which("curl") is None:
        raise ConfigError("curl is not on PATH; valid: install it (apt install curl)")
    part.parent.mkdir(parents=True, exist_ok=True)
    idle = 0
    while (have := part.stat().st_size if part.exists() else 0) < size or not part.exists():
        if size == 0:
            part.touch()
            return
        status, said = _curl(url, token, part)
        if status in LASTING:
            raise ConfigError(f"{part}: {LASTING[status]} ({said})")
        if status == REFUSED:
            raise WorkerError(f"{urlsplit(url).hostname}: {said}; the same command goes on")
        grown = (part.stat().st_size if part.exists() else 0) > have
        idle = 0 if grown else idle + 1
        if idle >= ATTEMPTS:
            raise WorkerError(f"{urlsplit(url).hostname} gives no more: {said}; the same command goes on")
    if have > size:
        part.unlink()
        raise WorkerError(
            f"{part.name} came with {have} bytes instead of {size} and is removed; the same command goes on"
        )


def _curl(url: str, token: str | None, part: Path) -> tuple[int, str]:
    """Runs curl once. Returns its exit status and what it says, without the address."""
    lines = [f'url = "{_quoted(url)}"', f'output = "{_quoted(str(part))}"', 'continue-at = "-"', "fail", "location"]
    lines += [
        "show-error",
        f"speed-time = {STALLED_S}",
        "speed-limit = 1",
        "connect-timeout = 30",
        'proto = "=https,http"',
    ]
    lines += ["progress-bar" if sys.stderr.isatty() else "silent"]
    if token is not None:
        lines.append(f'header = "Authorization: Bearer {_quoted(token)}"')
    done = subprocess.run(
        ["curl", "--disable", "--config", "-"],
        input="\n".join(lines),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=None if sys.stderr.isatty() else subprocess.PIPE,  # a terminal gets curl's own progress and words
        check=False,
        preexec_fn=die_with_parent,
    )
    said = (done.stderr or "").strip().splitlines()
    return done.returncode, said[-1].removeprefix("curl: ") if said else f"curl ended with {done.returncode}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
