"""A worker process killed outright: how many of its tokens are generated again."""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.workers.journal.journal import EVERY_S
from trimode.workers.journal.lines import checked, read_parts

pytestmark = [pytest.mark.process, pytest.mark.slow]

PROGRAM = PROJECT_DIR / "tests" / "fakes" / "journaling_worker.py"
BLOCK = {"ar": 1, "dlm": 8, "linear_spec": 16}
COUNT = 4


def requests(mode: str) -> list[dict[str, Any]]:
    fields = {"mode": mode, "block_length": BLOCK[mode], "max_new_tokens": 6000, "ignore_eos": True}
    return [{**fields, "prompt": f"What is {number} + {number}?"} for number in range(COUNT)]


def tokens_in(folder: Path) -> list[int]:
    """Returns the number of tokens of each request in the one journal of a folder."""
    (path,) = folder.iterdir()
    parts: dict[str, list[bytes]] = {}
    for line in path.read_bytes().split(b"\n")[1:-1]:
        read = checked(line)
        assert read is not None
        parts.setdefault(read[0], []).append(read[1])
    wholes = [read_parts(digest, lines) for digest, lines in parts.items()]
    return [whole.end for whole in wholes if whole is not None]


@pytest.mark.parametrize("mode", BLOCK)
def test_what_a_killed_worker_had_is_kept_but_for_the_last_second(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "model": str(PROJECT_DIR / "assets" / "demo_model"),
        "device": "cpu",
        "dtype": "float32",
        "max_num_seqs": COUNT,
        "kv_cache_gb": 0.5,
        "journal": str(tmp_path / "journal"),
    }
    progress = tmp_path / "progress"
    progress.write_bytes(bytes(8 * COUNT))

    def counts() -> tuple[int, ...]:
        return struct.unpack(f"<{COUNT}q", progress.read_bytes())

    command = [sys.executable, str(PROGRAM), json.dumps(settings), json.dumps(requests(mode)), str(progress)]
    process = subprocess.Popen(command, env={**os.environ, **child_environment()})
    chance = random.Random(mode)
    try:
        while len(list((tmp_path / "journal").glob("*"))) == 0:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(2 * chance.random())
        # What it had some time ago must be in the journal: the longest time between two lines, and one step more.
        earlier = counts()
        ago = time.monotonic()
        while time.monotonic() - ago < 2 * EVERY_S or any(
            now <= then for now, then in zip(counts(), earlier, strict=True)
        ):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        process.wait()
    had = counts()
    rate = (sum(had) - sum(earlier)) / (time.monotonic() - ago)

    kept = sum(tokens_in(tmp_path / "journal"))
    again = sum(had) - kept
    with capsys.disabled():
        print(
            f"{mode}: of {sum(had)} tokens of {COUNT} requests {again} are generated again after kill -9: "
            f"{again / rate:.2f} s of decoding, {again / COUNT / BLOCK[mode]:.1f} blocks of each"
        )
    assert sum(earlier) <= kept <= sum(had)
