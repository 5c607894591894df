"""Seccomp: refuses system calls that an answer has no use for, for this process and its descendants.

Works for every user. Sockets are refused here too, because neither Landlock nor a network namespace stops a process
from connecting to a unix socket by its path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> its number in a filter, and the column of its system calls below."""
X32_BIT = 0x40000000
"""System calls of the x32 interface have this bit; all are refused."""
LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
"""Operations of a filter."""
ALLOW, ERRNO, NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0x7FFF0000, 0x00050000, 0, 4, 16
CLONE_THREAD, CLONE_NAMESPACES = 0x00010000, 0x7E020080

# fmt: off
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "fanotify_init": (300, 262), "mq_open": (240, 180), "msgget": (68, 186),
    "semget": (64, 190), "shmget": (29, 194), "io_uring_setup": (425, 425), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "tkill": (200, 130),
}
"""Name -> number on x86_64 and aarch64, of what fails with EPERM."""
SOCKET, CONNECT, SOCKETPAIR = (41, 198), (42, 203), (53, 199)
CLONE, CLONE3 = (56, 220), (435, 435)
FORKS: tuple[tuple[int, int | None], ...] = ((57, None), (58, None))
KILL, TGKILL, PRLIMIT = (62, 129), (234, 131), (302, 261)
# fmt: on

Instruction = tuple[int, int, int, int]


def _fail(number: int) -> Instruction:
    return (RETURN, 0, 0, ERRNO | number)


def _unless(call: int | None, body: list[Instruction]) -> list[Instruction]:
    """Returns instructions that run `body` for one system call and keep the call's number loaded for what follows."""
    if call is None:
        return []
    full = [*body, (LOAD, 0, 0, NUMBER_AT)]
    return [(EQUAL, 0, len(full), call), *full]


def _argument(index: int) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS_AT + 8 * index)


def program(column: int, architecture: int, *, one_process: bool) -> list[Instruction]:
    """Returns the filter. With `one_process` there are no new processes, and signals go to this process only."""
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCH_AT),
        (EQUAL, 1, 0, architecture),
        _fail(errno.ENOSYS),
        (LOAD, 0, 0, NUMBER_AT),
        (GREATER_EQUAL, 0, 1, X32_BIT),
        _fail(errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        code += _unless(numbers[column], [_fail(errno.EPERM)])
    for calls in (SOCKET, CONNECT):
        code += _unless(calls[column], [_fail(errno.ENETUNREACH)])
    stream = [_argument(1), (AND, 0, 0, 0xF), (EQUAL, 1, 0, socket.SOCK_STREAM), _fail(errno.EACCES)]
    code += _unless(SOCKETPAIR[column], stream)
    code += _unless(CLONE3[column], [_fail(errno.ENOSYS)])
    own = os.getpid()
    limited = [_argument(0), (EQUAL, 2, 0, 0), (EQUAL, 1, 0, own), _fail(errno.EPERM)]
    code += _unless(PRLIMIT[column], limited)
    if one_process:
        code += _unless(CLONE[column], [_argument(0), (ANY_BIT, 1, 0, CLONE_THREAD), _fail(errno.EAGAIN)])
        for forks in FORKS:
            code += _unless(forks[column], [_fail(errno.EAGAIN)])
        for calls in (KILL, TGKILL):
            code += _unless(calls[column], [_argument(0), (EQUAL, 1, 0, own), _fail(errno.EPERM)])
    else:
        code += _unless(CLONE[column], [_argument(0), (ANY_BIT, 0, 1, CLONE_NAMESPACES), _fail(errno.EPERM)])
    return [*code, (RETURN, 0, 0, ALLOW)]


def restrict(*, one_process: bool) -> bool:
    """Puts the filter in force for good. True if it is. False on other architectures or where the kernel refuses."""
    if platform.machine() not in ARCHITECTURES:
        return False
    architecture, column = ARCHITECTURES[platform.machine()]
    code = program(column, architecture, one_process=one_process)
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in code))
    pointer = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(packed)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.c_void_p(ctypes.addressof(pointer)), 0, 0) == 0)
