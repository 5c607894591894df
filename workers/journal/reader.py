"""Finds a request in the journals of a folder, whoever wrote them: earlier runs, dead workers, this worker itself."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from trimode.core.continuation import Continuation
from trimode.workers.journal.lines import FAILED, SUFFIX, checked, header, read_parts

SHARE_OF_TIME = 0.05
"""Most of a thread's time that may go into looking for new lines: on a slow disk they are looked for less often."""


class _File:
    """What has been read of one file."""

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.read = 0
        """Bytes."""
        self.is_ours: bool | None = None
        """True if its tokens are those that this worker would give; None before its first line was read."""
        self.parts: dict[str, list[bytes]] = {}
        """By digest."""
        self.damaged = False


class JournalReader:
    """The journals of one folder. It reads what is new whenever it is asked. Any thread may ask."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder
        self._header = header(identity).rstrip(b"\n")
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        self._next_look = 0.0

    def find(self, digest: str) -> Continuation | None:
        """Returns the request as far as any journal has it; None if none has."""
        with self._lock:
            began = time.monotonic()
            if began >= self._next_look:
                self._look()
                ended = time.monotonic()
                self._next_look = ended + (ended - began) / SHARE_OF_TIME
            parts = [file.parts[digest] for file in self._files.values() if digest in file.parts]
            if any(FAILED in each for each in parts):
                return None
            found = [whole for each in parts if (whole := self._read(digest, each)) is not None]
        return max(found, key=lambda whole: whole.end, default=None)

    def _read(self, digest: str, parts: list[bytes]) -> Continuation | None:
        try:
            return read_parts(digest, parts)
        except (
            ValueError,
            TypeError,
        ) as error:  # two runs of one request that differ, as rounding on another device can make them
            print(f"journal: a request in {self._folder} is left out: {error}", file=sys.stderr, flush=True)
            return None

    def _look(self) -> None:
        try:
            with os.scandir(self._folder) as entries:
                names = [entry for entry in entries if entry.name.endswith(SUFFIX)]
        except OSError:  # no folder yet
            return
        there = {}
        for entry in names:
            with contextlib.suppress(OSError):  # a file that has just been removed, or a link to nothing
                there[entry.name] = entry.stat()
        for name in self._files.keys() - there.keys():
            del self._files[name]
        for name, status in there.items():
            file = self._files.get(name)
            if file is None or file.inode != status.st_ino or status.st_size < file.read:
                file = self._files[name] = _File(status.st_ino)
            if status.st_size > file.read and file.is_ours is not False:
                self._read_on(name, file)

    def _read_on(self, name: str, file: _File) -> None:
        """Reads the lines that are new and whole. A torn last line waits for its rest."""
        try:
            with (self._folder / name).open("rb") as source:
                if os.fstat(source.fileno()).st_ino != file.inode:
                    return  # replaced meanwhile
                source.seek(file.read)
                data = source.read()
        except OSError:
            return
        data = data[: data.rfind(b"\n") + 1]
        file.read += len(data)
        for line in data.split(b"\n")[:-1]:
            if file.is_ours is None:
                file.is_ours = line == self._header
            if not file.is_ours:
                return
            if line != self._header:
                self._add(name, file, line)

    def _add(self, name: str, file: _File, line: bytes) -> None:
        found = checked(line)
        if found is None:
            if not file.damaged:
                print(f"journal: damaged lines of {self._folder / name} are skipped", file=sys.stderr, flush=True)
            file.damaged = True
            return
        digest, fields = found
        file.parts.setdefault(digest, []).append(fields)
