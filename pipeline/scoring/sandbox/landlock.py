"""Landlock: takes from this process and its descendants the right to reach files, TCP and other processes' signals.

Works for every user on Linux 5.13 and later, unless the kernel or a container forbids it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, the same on all architectures."""
VERSION_FLAG, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
READ = EXECUTE | READ_FILE | READ_DIR
FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
"""Rights that a rule on a single file may name."""
TCP = 0b11
"""Binding and connecting."""
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNALS = 0b01, 0b10
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Version of the interface -> all its rights on files."""
NET_VERSION, SCOPE_VERSION = 4, 6

libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Returns the version of the kernel's interface, 0 if there is none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def restrict(readable: Iterable[Path], writable: Iterable[Path], *, signals: bool) -> bool:
    """Leaves this process only these files and folders, with all below them. True if that is in force now.

    With `signals` it may send signals to processes that are not restricted in the same way.
    """
    known = version()
    if known == 0:
        return False
    rights = FILE_RIGHTS[max(step for step in FILE_RIGHTS if step <= known)]
    attributes = struct.pack("=Q", rights)
    if known >= NET_VERSION:
        attributes += struct.pack("=Q", TCP)
    if known >= SCOPE_VERSION:
        attributes += struct.pack("=Q", SCOPE_ABSTRACT_UNIX | (0 if signals else SCOPE_SIGNALS))
    ruleset = libc.syscall(CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(ruleset, path, READ)
        for path in writable:
            _allow(ruleset, path, rights & ~(MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK))
        return bool(libc.syscall(RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Adds one rule. A path that is not there needs none."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = rights if stat.S_ISDIR(os.fstat(descriptor).st_mode) else rights & FILE_ONLY
        libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", allowed, descriptor), 0)
    finally:
        os.close(descriptor)
