"""Long answers that are cut off in every way go on where they were, and equal those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trimode.pipeline.run_folder.nfe import read_run_ledger
from trimode.tests.end_to_end.test_kill import PATIENCE_S, Sweep, job_process, wait_for, worker_process
from trimode.workers.journal.lines import checked, read_parts

pytestmark = [pytest.mark.process, pytest.mark.slow]

LIMIT = 4
"""Samples, all decoded together."""
TOKENS = {"ar": 6000, "dlm": 6000, "linear_spec": 10_000}
"""Of every answer: it takes long enough for three kills."""
NOT_OF_THE_ANSWER = {"request_id", "forwards_saved", "queue_s", "first_token_s", "total_s", "continuations"}


def long_answers(folder: Path, mode: str) -> Sweep:
    return Sweep(folder, f"--mode {mode} --limit {LIMIT} --batch-size {LIMIT} --tokens {TOKENS[mode]}")


def journals(sweep: Sweep) -> list[Path]:
    return [] if sweep.paths is None else sweep.paths.journals(0)


def written(sweep: Sweep) -> dict[str, int]:
    """Tokens of each request that some journal has."""
    found: dict[str, int] = {}
    for path in journals(sweep):
        parts: dict[str, list[bytes]] = {}
        for line in path.read_bytes().split(b"\n")[1:-1]:
            read = checked(line)
            assert read is not None
            parts.setdefault(read[0], []).append(read[1])
        for digest, lines in parts.items():
            whole = read_parts(digest, lines)
            found[digest] = max(found.get(digest, 0), whole.end if whole else 0)
    return found


def wait_for_more_tokens(sweep: Sweep, command: subprocess.Popen[str]) -> int:
    """Waits until the journals have more of every answer, while none is finished. Returns all tokens that they have."""
    before = written(sweep)

    def enough() -> bool:
        found = written(sweep)
        more = [count >= before.get(digest, 0) + 20 for digest, count in found.items()]
        return (len(more) == LIMIT and all(more)) or command.poll() is not None

    wait_for(enough, "tokens of each answer", sweep)
    assert command.poll() is None, sweep.log()
    assert sweep.num_stored() == 0, "the answers are too short for this machine"
    return sum(written(sweep).values())


def ledger(sweep: Sweep) -> dict[int, dict[str, Any]]:
    assert sweep.paths is not None
    records = read_run_ledger(sweep.paths.run_dir)
    return {
        sample: {key: value for key, value in record.to_json().items() if key not in NOT_OF_THE_ANSWER}
        for (_, _, sample), record in records.items()
    }


@pytest.fixture
def sweeps() -> Iterator[list[Sweep]]:
    found: list[Sweep] = []
    yield found
    for sweep in found:
        sweep.end()


@pytest.mark.parametrize("mode", TOKENS)
def test_answers_cut_off_three_times_equal_those_of_an_undisturbed_run(
    tmp_path: Path, sweeps: list[Sweep], mode: str
) -> None:
    calm, sweep = long_answers(tmp_path / "calm", mode), long_answers(tmp_path / "killed", mode)
    sweeps += [calm, sweep]
    assert calm.start().wait(PATIENCE_S) == 0, calm.log()
    command = sweep.start()
    kept = [wait_for_more_tokens(sweep, command)]
    os.kill(worker_process(sweep), signal.SIGKILL)
    for signum in (signal.SIGKILL, signal.SIGTERM):
        kept.append(wait_for_more_tokens(sweep, command))
        os.kill(job_process(sweep), signum)
        assert command.wait(PATIENCE_S) != 0
        wait_for(lambda: not sweep.processes(), f"no process after {signum.name}", sweep)
        command = sweep.start()
    assert command.wait(PATIENCE_S) == 0, sweep.log()
    wait_for(lambda: not sweep.processes(), "the end of every process", sweep)
    assert sweep.rows() == calm.rows()
    assert ledger(sweep) == ledger(calm)
    assert sweep.paths is not None
    records = read_run_ledger(sweep.paths.run_dir).values()
    assert [record.cost.continuations for record in records] == [3] * LIMIT
    assert not sweep.paths.journal.exists()
    print(f"{mode}: of {LIMIT * TOKENS[mode]} tokens, {kept} were kept at the three kills")
