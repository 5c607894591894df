"""Runs one Python program under limits and leaves nothing behind; a script of its own, started by `sandbox`.

Usage: python -I sandbox_child.py LIMITS_JSON PROGRAM. Knows the standard library only. NOT a security sandbox: it keeps
clumsy programs from harming the run (time, memory, processes, files, network), not hostile ones from reading files.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 36, 47, 2
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CAPABILITY_VERSION = 0x20080522
FIRST_SPARE_UID = 1_000_000
"""Root gives each program a user id of its own, counted from here: the process limit does not bind root."""

libc = ctypes.CDLL(None, use_errno=True)


def unshare_what_is_allowed() -> bool:
    """Takes process, network and IPC namespaces of its own where permitted; whether processes are counted afresh there.

    Only ordinary users need a user namespace for it; root, which would lose sight of its files in one, does without.
    """
    wanted = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    if os.geteuid() == 0:
        libc.unshare(wanted)
        return False
    return any(libc.unshare(flags) == 0 for flags in (wanted | CLONE_NEWUSER, CLONE_NEWUSER))


def give_up_root() -> bool:
    """Turns root into a fresh user that can still read root's files (Python may lie there); whether that was done."""
    if os.geteuid() != 0:
        return False
    uid = FIRST_SPARE_UID + int.from_bytes(os.urandom(3))
    try:
        os.chown(".", uid, uid)
        os.setgroups([])
        os.setgid(uid)
        libc.prctl(PR_SET_KEEPCAPS, 1)
        os.setuid(uid)
    except OSError:
        return False
    keep_reading()
    return True


def keep_reading() -> None:
    """Of root's capabilities keeps the one to read any file, over the coming exec too."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    permitted = sets[1]
    kept = CAP_DAC_READ_SEARCH if permitted >> CAP_DAC_READ_SEARCH & 1 else CAP_DAC_OVERRIDE
    libc.capset(header, (ctypes.c_uint32 * 6)(*[permitted & 1 << kept] * 3))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept, 0, 0)


def num_own_tasks() -> int:
    """Threads this user has now; the process limit counts them too."""
    count = 0
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == os.getuid():
                count += len(list((folder / "task").iterdir()))
    return count


def limit(limits: dict[str, int], num_tasks: int) -> None:
    """Sets the kernel's limits for this process and all below it, which come on top of `num_tasks` threads."""
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["num_files"],
        resource.RLIMIT_NPROC: limits["num_processes"] + num_tasks,
    }
    for kind, value in values.items():
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def kill_descendants() -> None:
    """Kills every process below this one; orphans have come here, since this process is their subreaper."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        pids = children.read_text(encoding="ascii").split()
        if not pids:
            return
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    """The runner's time is up: leaves nothing and ends."""
    kill_descendants()
    os._exit(128 + number)


def main() -> None:
    """Forks the program, waits for it, kills what it left, and ends with its exit status (128 + signal)."""
    limits, program = json.loads(sys.argv[1]), sys.argv[2]
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, stop)
    fresh = unshare_what_is_allowed()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        fresh = give_up_root() or fresh
        limit(limits, 0 if fresh else num_own_tasks())
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execv(sys.executable, [sys.executable, "-I", "-B", program])  # noqa: S606 - no shell is the point
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    kill_descendants()
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
