"""A worker process for tests that kill it: decodes some requests and says after each step how far each one is.

`python journaling_worker.py SETTINGS REQUESTS PROGRESS`: two JSON texts and a file of one 8-byte count per request,
mapped into memory, so that it holds the last step's counts whatever ends the process.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import struct
import sys
from pathlib import Path
from typing import Any

import torch
from trimode.core.protocol import WorkerSettings
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.worker import Worker


async def main(settings: str, requests: str, progress: str) -> None:
    """Answers the requests; request N has the id N."""
    torch.set_num_threads(1)
    worker = Worker(WorkerSettings(**json.loads(settings)))
    wanted: list[dict[str, Any]] = json.loads(requests)
    file = Path(progress).open("r+b")  # noqa: SIM115 -- open to the end of the process
    counts = mmap.mmap(file.fileno(), 8 * len(wanted))
    engine = worker._runtime.engine
    step = engine.step

    def counted() -> list[Sequence]:
        ended = step()
        for sequence in (*engine.running, *ended):
            struct.pack_into("<q", counts, 8 * int(sequence.request_id), len(sequence.state.output))
        return ended

    engine.step = counted  # type: ignore[method-assign]
    await asyncio.gather(
        *(worker.generate({**fields, "request_id": str(number)}) for number, fields in enumerate(wanted))
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
