"""Runs one Python program under limits and kills every process that it leaves behind. `run` starts this script.

Usage: python -I child.py LIMITS_JSON PROGRAM. Standard library only. NOT a security sandbox: it keeps clumsy programs
from harming the run (time, memory, processes, files, network), not hostile ones from reading files.
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
"""Lowest of the user ids that root gives to programs, because the process limit does not bind root."""

libc = ctypes.CDLL(None, use_errno=True)


def unshare_what_is_allowed() -> bool:
    """Enters private PID, network and IPC namespaces if the kernel allows it.

    Returns True if RLIMIT_NPROC starts from zero there. Ordinary users need a user namespace for this. Root enters
    none: it could not read its files there.
    """
    wanted = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    if os.geteuid() == 0:
        libc.unshare(wanted)
        return False
    return any(libc.unshare(flags) == 0 for flags in (wanted | CLONE_NEWUSER, CLONE_NEWUSER))


def give_up_root() -> bool:
    """Drops root to an unused uid but keeps read access, because Python may lie in root's files.

    Returns True if the uid changed.
    """
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
    """Drops all of root's capabilities except the one to read any file, which survives the next exec."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    permitted = sets[1]
    kept = CAP_DAC_READ_SEARCH if permitted >> CAP_DAC_READ_SEARCH & 1 else CAP_DAC_OVERRIDE
    libc.capset(header, (ctypes.c_uint32 * 6)(*[permitted & 1 << kept] * 3))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept, 0, 0)


def num_own_tasks() -> int:
    """Returns the number of threads that this user has now. The process limit counts them too."""
    count = 0
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == os.getuid():
                count += len(list((folder / "task").iterdir()))
    return count


def limit(limits: dict[str, int], num_tasks: int) -> None:
    """Sets the kernel's limits for this process and its descendants, beyond the user's `num_tasks` present threads."""
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
    """Kills every descendant. Orphans are among the children, because this process is their subreaper."""
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
    """Handles SIGTERM, sent at the time limit: kills all descendants and exits."""
    kill_descendants()
    os._exit(128 + number)


def main() -> None:
    """Forks the program, waits for it, kills what it left, and exits with its status (128 + signal if killed)."""
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
