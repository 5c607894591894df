"""The lines of a journal: one part of one request each, with a checksum.

A file begins with a line that names what the tokens depend on beside the request: weights, kernels, device. Each line
is `<crc32> <digest of the request> <part as JSON>`, or has `null` for the part of a request that failed: nobody goes on
with it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

from trimode.core.continuation import Continuation, join

FORMAT = 1
"""Counted up when a line or the meaning of a field changes: files of other formats are not read."""
SUFFIX = ".jsonl"
FAILED = b"null"


def header(identity: str) -> bytes:
    """Returns the first line of a file."""
    return _line(f"journal {json.dumps({'format': FORMAT, 'identity': identity}, sort_keys=True)}")


def part_line(part: Continuation) -> bytes:
    """Returns the line of a part of a request."""
    fields = part.to_json()
    del fields["digest"]
    return _line(f"{part.digest} {json.dumps(fields, separators=(',', ':'))}")


def failed_line(digest: str) -> bytes:
    """Returns the line that says that a request failed."""
    return _line(f"{digest} {FAILED.decode()}")


def checked(line: bytes) -> tuple[str, bytes] | None:
    """Returns the digest and the JSON of a line without its end; None if the line is damaged."""
    crc, _, body = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(body):
        return None
    digest, _, fields = body.partition(b" ")
    return (digest.decode(), fields) if digest.isalnum() else None


def read_parts(digest: str, parts: Iterable[bytes]) -> Continuation | None:
    """Returns the request as far as its parts reach without a gap; None if there is nothing."""
    whole: list[Continuation] = []
    for fields in parts:
        part = Continuation.from_json({**json.loads(fields), "digest": digest})
        end = whole[-1].end if whole else 0
        if part.start > end:  # a damaged line is missing before it
            continue
        if part.end > end:
            whole.append(part)
    return join(whole) if whole else None


def _line(body: str) -> bytes:
    data = body.encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)
