"""Where a failure stops: whatever the work for one request raises becomes that request's error, and nothing else's."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

from trimode.core.errors import GenerationError, TrimodeError


class one_request:  # noqa: N801 -- a context manager, as in contextlib
    """Turns an exception of its block into the GenerationError (500) of one request. May be used many times.

    Errors that this project raises on purpose pass as they are. Interrupts and exits pass too; a panic of the tokenizer
    library does not, although it is no Exception. The log gets the place, but no message, which might hold the prompt.
    """

    __slots__ = ("_passing", "_where")

    def __init__(self, where: str, passing: tuple[type[Exception], ...] = ()) -> None:
        """Args:
        where: what failed, for the message: "the decoder".
        passing: exceptions that the caller handles itself.
        """
        self._where = where
        self._passing: tuple[type[Exception], ...] = (TrimodeError, *passing)

    def __enter__(self) -> None:
        """Begins the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Ends the block."""
        if error is None or isinstance(error, self._passing):
            return
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            return
        name = type(error).__name__
        at = traceback.extract_tb(frames)[-1]
        print(f"generation failed: {name} in {self._where}, {at.filename}:{at.lineno}", file=sys.stderr, flush=True)
        raise GenerationError(f"generation failed: {name} in {self._where}", status=500) from error
