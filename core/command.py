"""How every command of this project ends: its exit status, Ctrl-C, and a reader of its output that has left."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of a command that Ctrl-C has ended, as a shell gives it."""
UNREAD = 128 + signal.SIGPIPE
"""Exit status of a command that has ended before its work was done, because nobody reads its output any more."""


def run_command(command: Callable[[], int | None], unfinished: int = 0) -> NoReturn:
    """Runs a command and ends the process with the status that it returns; None counts as 0.

    If nobody reads its output any more (`| head`), the command ends at the next line that it prints, without a message.
    Its status is then `unfinished`: 0 where the output is all that is wanted of it, UNREAD where it does other work or
    its status is a verdict. It keeps its own status if it was done before. Ctrl-C ends it without a message too.
    A character that the encoding of stdout lacks, as a dash in Latin-1, is printed as a question mark.
    """
    status: int | str | None = unfinished
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # stderr never fails: Python gives it backslashreplace
    try:
        try:
            status = command()
        except SystemExit as end:
            status = end.code
        except KeyboardInterrupt:
            status = INTERRUPTED
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # it is None if it was closed before the start
                stream.flush()  # what is left would otherwise fail when Python ends
    except BrokenPipeError:
        if not drop_unread():
            raise  # another pipe or connection broke
    sys.exit(status)


def drop_unread() -> bool:
    """Sends stdout and stderr to nowhere, each if its reader has left. Returns True if one has."""
    left = [descriptor for descriptor in _descriptors() if has_left(descriptor)]
    for descriptor in left:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return bool(left)


def _descriptors() -> Iterator[int]:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):  # a stream in memory has none
                yield stream.fileno()


def has_left(descriptor: int) -> bool:
    """Returns True if the other end of a pipe or socket that this process writes to is closed."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
