"""What a process gives up before it runs a program of a model's: rights on files, network, processes and resources.

Every part is tried, whoever starts it. `isolate` and `enter_namespaces` return the names of those that are in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trimode.pipeline.scoring.sandbox import landlock, seccomp

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 4, 8, 47, 2
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CAPABILITY_VERSION = 0x20080522
FIRST_SPARE_UID = 1_000_000
"""Lowest of the user ids that root gives to programs, because the process limit does not bind root."""
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/gnu/store", "/sys/devices/system/cpu")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/dev/zero", "/dev/random", "/dev/urandom")
WRITABLE_FILES = ("/dev/null", "/dev/full")
WATCH_EVERY_S = 0.1
"""Seconds between two looks at a folder's size."""

libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of one process that runs a program."""

    memory_bytes: int
    """Address space."""
    cpu_s: int
    """CPU seconds, a second bound behind the judge's own."""
    file_bytes: int = 16 << 20
    """Largest size of one file."""
    folder_bytes: int = 64 << 20
    """Most bytes of all files that it leaves in its folder."""
    num_files: int = 64
    """Open files."""
    num_processes: int = 1
    """Processes and threads at the same time. 1 means one process with any number of threads."""


def enter_namespaces(folder: Path, folder_bytes: int) -> list[str]:
    """Enters private namespaces and puts a file system of limited size on `folder`, where the kernel allows it.

    Ordinary users need a user namespace for this. Root enters none: it could not read its files there. Later children
    are in the process namespace, this process is not. Returns what is in force: processes, network, folder.
    """
    uid, gid = os.geteuid(), os.getegid()
    user = 0 if uid == 0 else CLONE_NEWUSER
    private = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    if libc.unshare(user | private | CLONE_NEWNS) != 0:
        return ["processes", "network"] if libc.unshare(user | private) == 0 else []
    if user:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_bytes(b"deny")
            Path("/proc/self/uid_map").write_bytes(f"{uid} {uid} 1".encode())
            Path("/proc/self/gid_map").write_bytes(f"{gid} {gid} 1".encode())
    libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
    options = f"size={folder_bytes},mode=0777,nr_inodes=4096".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID | MS_NODEV, options) != 0:
        return ["processes", "network"]
    os.chdir(folder)
    return ["processes", "network", "folder"]


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
    return True


def drop_capabilities(*, keep_reading: bool) -> None:
    """Drops all capabilities. With `keep_reading` the one to read any file stays, and survives the next exec."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    permitted = sets[1] if keep_reading else 0
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


def limit(bounds: Bounds, num_processes: int | None) -> None:
    """Sets the kernel's limits for this process and its descendants. None limits no processes."""
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: bounds.memory_bytes,
        resource.RLIMIT_CPU: bounds.cpu_s,
        resource.RLIMIT_FSIZE: bounds.file_bytes,
        resource.RLIMIT_NOFILE: bounds.num_files,
    }
    if num_processes is not None:
        values[resource.RLIMIT_NPROC] = num_processes
    for kind, value in values.items():
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def isolate(bounds: Bounds, *, fresh: bool = False, program: Path | None = None) -> list[str]:
    """Gives up this process' rights for good: it may write in its current folder only, and reach no network.

    `fresh` says that a user namespace counts processes from zero. `program` is one more file that it may read.
    Returns the names of what is in force: files, calls.
    """
    as_root = give_up_root()
    drop_capabilities(keep_reading=as_root)
    one_process = bounds.num_processes == 1
    allowed = None if one_process else bounds.num_processes + (0 if as_root or fresh else num_own_tasks())
    readable = [*_python_files(), *([program] if program else [])]
    libc.prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    files = landlock.restrict(readable, [Path.cwd(), *map(Path, WRITABLE_FILES)], signals=False)
    limit(bounds, allowed)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    calls = seccomp.restrict(one_process=one_process)
    return ["files"] * files + ["calls"] * calls


def confine_judge(cpu_s: int) -> None:
    """Takes from a judge what a row's tests have no use for: files that are not Python's, and more CPU time."""
    libc.prctl(seccomp.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    landlock.restrict([*_python_files(), Path("/proc"), Path.cwd()], [Path(os.devnull)], signals=True)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))


def _python_files() -> list[Path]:
    """Returns the folders and files that Python and compiled modules need to run."""
    libraries = {Path(line.split()[-1]).parent for line in _mapped() if ".so" in line}
    return [*map(Path, (sys.prefix, sys.base_prefix, *SYSTEM_FOLDERS, *SYSTEM_FILES)), *libraries]


def _mapped() -> list[str]:
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def hide() -> None:
    """Keeps other processes of this user from reading this process' memory and files."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent() -> None:
    """Makes the kernel kill this process when the one that started it ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class FolderWatch:
    """Looks at the size of a program's folder from time to time, for where no file system of its own limits it."""

    def __init__(self, folder: Path, folder_bytes: int) -> None:
        self._folder, self._folder_bytes, self._next = folder, folder_bytes, 0.0

    def is_over(self) -> bool:
        """True if the folder holds more than it may."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + WATCH_EVERY_S
        return self._size() > self._folder_bytes

    def _size(self) -> int:
        size = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):
                    size += os.lstat(Path(folder, name)).st_blocks * 512
        return size
