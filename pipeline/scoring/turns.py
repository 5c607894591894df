"""Lets rows be scored side by side, or one row alone while this process scores no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock with two sides: any number of rows at once, or one row alone. A row that waits to be alone goes first."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._together = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Holds the lock beside other rows."""
        with self._change:
            self._change.wait_for(lambda: not self._alone and not self._waiting)
            self._together += 1
        try:
            yield
        finally:
            with self._change:
                self._together -= 1
                self._change.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the lock without any other row. The caller must not hold `together`."""
        with self._change:
            self._waiting += 1
            self._change.wait_for(lambda: not self._alone and not self._together)
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._change:
                self._alone = False
                self._change.notify_all()


TURNS = Turns()
"""Those of this process: the pools of all benchmarks share them."""
