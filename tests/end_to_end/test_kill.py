"""The whole path with the demo model, killed in every way and repeated: nothing lost, doubled or left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trimode.pipeline.run_folder.nfe import read_run_ledger
from trimode.pipeline.run_folder.paths import RunPaths

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120
TOKENS = 192
"""Of every answer, with the end token ignored: slow enough that every kill comes in the middle."""
PATIENCE_S = 600.0
TIMES = {
    "generation_start_time",
    "generation_end_time",
    "generation_time",
    "interleaved_eval_single_time_s",
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """One command over demo-math with a home, a temporary folder and an output folder of its own."""

    folder: Path
    asked: str = f"--mode ar --limit {LIMIT} --tokens {TOKENS}"
    """Flags on what is asked."""

    def start(self) -> subprocess.Popen[str]:
        """Starts the command eval.sh ends in."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(ROOT / ".types"),
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
        }
        flags = f"--benchmarks demo-math:1 --local --no-eos-early-stop {self.asked}"
        command = [sys.executable, "-m", "trimode.pipeline.eval", *flags.split(), "--device", "cpu", "--workers", "1"]
        command += ["--model", str(ROOT / "assets" / "demo_model"), "--out-dir", str(self.folder / "out")]
        command += ["model.dtype=float32"]  # so that who is batched with whom changes no token
        log = (self.folder / "command.log").open("a")
        with log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
            )

    @property
    def paths(self) -> RunPaths | None:
        """The one run folder, once it is there."""
        found = list((self.folder / "out").glob("*/hf_base/eval_*"))
        assert len(found) <= 1
        return RunPaths(found[0]) if found else None

    def num_stored(self) -> int:
        """Whole rows on disk, finished or not."""
        paths = self.paths
        if paths is None:
            return 0
        files = (paths.output("demo-math", 0), paths.output_async("demo-math", 0))
        return sum(path.read_bytes().count(b"\n") for path in files if path.exists())

    def log(self) -> str:
        return (self.folder / "command.log").read_text()

    def processes(self) -> dict[int, str]:
        """Living processes that carry this sweep's temporary folder in their environment: its own and all below it."""
        mark = f"HOME={self.folder}\0".encode()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes() + b"\0":
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def end(self) -> None:
        """Leaves nothing behind, also when the test failed."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pid_of(self, part: str) -> int:
        """The process whose title or command line contains `part`."""
        (pid,) = [pid for pid, command in self.processes().items() if part in command]
        return pid

    def rows(self) -> list[dict[str, object]]:
        assert self.paths is not None
        rows = [json.loads(line) for line in self.paths.output("demo-math", 0).read_text().splitlines()]
        return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]

    def nfe(self) -> Counter[int]:
        """NFE by sample; a sample with two lines would show in the sum."""
        assert self.paths is not None
        lines = (self.paths.run_dir / "nfe_group0" / "nfe_log.jsonl").read_text().splitlines()
        assert len(lines) == len(read_run_ledger(self.paths.run_dir))
        counts: Counter[int] = Counter()
        for line in map(json.loads, lines):
            counts[line["sample_id"]] += line["nfe"]
        return counts


def wait_for(condition: Callable[[], bool], what: str, sweep: Sweep) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}; the log:\n{sweep.log()}"
        time.sleep(0.02)


def wait_for_more_rows(sweep: Sweep, command: subprocess.Popen[str], count: int) -> None:
    """Until `count` rows more are stored; the command must still be running then."""
    wanted = sweep.num_stored() + count
    wait_for(lambda: sweep.num_stored() >= wanted or command.poll() is not None, f"{wanted} rows", sweep)
    assert command.poll() is None, f"the command ended before {wanted} rows; the log:\n{sweep.log()}"


def job_process(sweep: Sweep) -> int:
    """The process that runs the job: the balancer's parent."""
    balancer = sweep.pid_of("-m trimode.balancer.server ")
    return int(Path(f"/proc/{balancer}/stat").read_text().rpartition(")")[2].split()[1])


def worker_process(sweep: Sweep) -> int:
    return sweep.pid_of("ray::WorkerActor")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """The same command, left alone."""
    sweep = Sweep(tmp_path_factory.mktemp("calm"))
    try:
        command = sweep.start()
        assert command.wait(PATIENCE_S) == 0, sweep.log()
        wait_for(lambda: not sweep.processes(), "the end of every process", sweep)
        yield sweep
    finally:
        sweep.end()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    """The command that is going to be killed."""
    sweep = Sweep(tmp_path)
    yield sweep
    sweep.end()


def assert_same(sweep: Sweep, calm: Sweep) -> None:
    """The finished sweep has every row and every ledger line of the calm one, once."""
    assert sweep.paths is not None
    assert sweep.paths.completed(0).exists()
    assert not sweep.paths.failed(0).exists()
    assert sweep.rows() == calm.rows()
    assert sweep.nfe() == calm.nfe()
    assert set(sweep.nfe()) == set(range(LIMIT))


def test_killed_command_and_job_repeated_equal_an_uninterrupted_run(calm: Sweep, sweep: Sweep) -> None:
    for whom in ("command", "job"):
        for signum in (signal.SIGTERM, signal.SIGKILL):
            command = sweep.start()
            wait_for_more_rows(sweep, command, 4)
            os.kill(command.pid if whom == "command" else job_process(sweep), signum)
            assert command.wait(PATIENCE_S) != 0
            wait_for(lambda: not sweep.processes(), f"no process after {signum.name} to the {whom}", sweep)
            assert sweep.paths is not None
            assert not sweep.paths.completed(0).exists()
            assert sweep.paths.failed(0).exists() == ((whom, signum) != ("job", signal.SIGKILL))
    assert sweep.start().wait(PATIENCE_S) == 0, sweep.log()
    wait_for(lambda: not sweep.processes(), "the end of every process", sweep)
    assert_same(sweep, calm)


def test_killed_workers_are_replaced_and_the_run_equals_an_uninterrupted_one(calm: Sweep, sweep: Sweep) -> None:
    command = sweep.start()
    for signum in (signal.SIGTERM, signal.SIGKILL):
        wait_for_more_rows(sweep, command, 2)
        os.kill(worker_process(sweep), signum)
    assert command.wait(PATIENCE_S) == 0, sweep.log()
    wait_for(lambda: not sweep.processes(), "the end of every process", sweep)
    assert_same(sweep, calm)
