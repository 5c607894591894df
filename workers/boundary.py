"""Where a failure stops: whatever the work for one request raises becomes that request's error, and nothing else's."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from trimode.core.errors import GenerationError, TrimodeError


@contextlib.contextmanager
def one_request(where: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns an exception of the block into the GenerationError (500) of one request.

    Errors that this project raises on purpose pass as they are. Interrupts and exits pass too; a panic of the tokenizer
    library does not, although it is no Exception. The log gets the place, but no message, which might hold the prompt.

    Args:
        where: what failed, for the message: "the decoder".
        passing: exceptions that the caller handles itself.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (TrimodeError, *passing)):
            raise
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        name = type(error).__name__
        at = traceback.extract_tb(error.__traceback__)[-1]
        print(f"generation failed: {name} in {where}, {at.filename}:{at.lineno}", file=sys.stderr, flush=True)
        raise GenerationError(f"generation failed: {name} in {where}", status=500) from error
