"""`python job_process.py SPEC.pickle`: one job against the fake balancer, scored by a comparison of strings.

Knows no real server and no real scorer.
"""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import Future
from pathlib import Path

from trimode.pipeline.client import samples as tasks
from trimode.pipeline.job import balancer as server
from trimode.pipeline.job import run as job
from trimode.pipeline.run_folder.rows import Row


class FakeScoring:
    """The surface of ScoringPool: the verdict of a math row, at once."""

    def __init__(self, *_args: object) -> None:
        self.open = True

    def __enter__(self) -> FakeScoring:
        return self

    def __exit__(self, *_error: object) -> None:
        self.open = False

    def submit(self, row: Row) -> Future[Row]:
        found = str(row["generation"]).partition("{")[2].partition("}")[0] or None
        future: Future[Row] = Future()
        future.set_result({"predicted_answer": found, "symbolic_correct": found == str(row["expected_answer"])})
        return future


def main() -> None:
    """Runs the pickled spec."""
    server.BALANCER = (str(Path(__file__).with_name("balancer.py")),)
    tasks.ScoringPool = FakeScoring  # type: ignore[assignment,misc]
    job.run_job(pickle.loads(Path(sys.argv[1]).read_bytes()))


if __name__ == "__main__":
    main()
