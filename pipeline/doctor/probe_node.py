"""The probe's part on a compute node: talks with the submitting host through files of a shared folder.

It needs the standard library alone, so that it also runs where packages are missing. The host's part (`probe_host`)
uses the same functions.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import platform
import socket
import sys
import time
from pathlib import Path

HEAR_S = 75.0
"""Seconds in which a file of the other side must be seen: file servers may show stale folders for a minute."""
POLL_S = 0.05
PACKAGES = ("trimode", "submitit", "torch", "ray", "transformers")
LOCK, REPLACED = "lock", "replaced"


def say(folder: Path, name: str, value: dict[str, object]) -> None:
    """Writes a message: a file beside it, then a rename, so that the other side sees all of it or nothing."""
    beside = folder / f".{name}.{socket.gethostname()}.{os.getpid()}"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / name)


def hear(folder: Path, name: str, limit_s: float = HEAR_S) -> dict[str, object] | None:
    """Waits for a message of the other side. Returns None if it does not come in time."""
    end = time.monotonic() + limit_s
    while True:
        os.listdir(folder)  # noqa: PTH208 - makes a file server's client look again
        message = read(folder / name)
        if message is not None or time.monotonic() > end:
            return message
        time.sleep(POLL_S)


def read(path: Path) -> dict[str, object] | None:
    """Returns a message if it is there. Raises ValueError if it is not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no message")
    return value


class Lock:
    """The lock of the probe, held by one side at a time."""

    def __init__(self, folder: Path) -> None:
        """Opens the file, which is made if it is not there."""
        self._file = (folder / LOCK).open("a", encoding="utf-8")

    def take(self) -> str:
        """Tries to take the lock at once. Returns `taken`, `refused`, or the system's error if it has no locks."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "refused"
        except OSError as error:
            return error.strerror or str(error)
        return "taken"

    def release(self) -> None:
        """Gives the lock back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the file, which gives the lock back too."""
        self._file.close()


def replace_and_read(folder: Path, mine: str, other: str, stop_at: Path, limit_s: float) -> dict[str, object]:
    """Replaces a file over and over and reads the other side's, until `stop_at` is there or the time is over.

    Returns how often each was done and what was wrong with what was read: files gone, and files not whole.
    """
    counts = {"replaced": 0, "read": 0, "gone": 0, "broken": 0}
    seen = False
    end = time.monotonic() + limit_s
    while time.monotonic() < end and not stop_at.exists():
        say(folder, f"{REPLACED}-{mine}", {"number": counts["replaced"]})
        counts["replaced"] += 1
        try:
            message = read(folder / f"{REPLACED}-{other}")
        except (ValueError, OSError):
            counts["broken"] += 1
            continue
        counts["read"] += message is not None
        counts["gone"] += seen and message is None
        seen = seen or message is not None
        time.sleep(0.005)
    return dict(counts)


def facts(paths: list[str]) -> dict[str, object]:
    """Returns what this node is, and which of the paths it does not see."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "missing_packages": [name for name in PACKAGES if importlib.util.find_spec(name) is None],
        "missing_paths": [path for path in paths if not Path(path).exists()],
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def main(folder: Path) -> int:
    """The node's part, from its first message to its last. Returns the exit status."""
    begun = hear(folder, "host-0") or {}
    paths = begun.get("paths")
    lock = Lock(folder)
    say(folder, "node-1", facts(paths if isinstance(paths, list) else []) | {"lock": lock.take()})
    if hear(folder, "host-1") is None:
        print(f"the files of the submitting host are not seen in {folder}", file=sys.stderr)
        return 1
    heard = time.time()
    say(folder, "node-2", {"time": heard, "lock": lock.take()})
    counts = replace_and_read(folder, "node", "host", folder / "host-2", HEAR_S)
    lock.close()
    say(folder, "node-3", counts)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
