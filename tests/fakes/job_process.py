"""`python job_process.py SPEC.pickle`: one job against the fake balancer, scored by a comparison of strings."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import Future
from pathlib import Path

from trimode.core.protocol import Row
from trimode.pipeline.job.run import Hooks, run_job


class FakeScoring:
    """The surface of ScoringPool: the verdict of a math row, at once."""

    def __init__(self, *_args: object) -> None:
        self.is_open = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def abandon(self) -> None:
        self.is_open = False

    def submit(self, row: Row) -> Future[Row]:
        found = str(row["generation"]).partition("{")[2].partition("}")[0] or None
        future: Future[Row] = Future()
        future.set_result({"predicted_answer": found, "symbolic_correct": found == str(row.get("expected_answer"))})
        return future


def main() -> None:
    """Runs the pickled spec."""
    hooks = Hooks(balancer=(str(Path(__file__).with_name("balancer.py")),), make_pool=FakeScoring)
    run_job(pickle.loads(Path(sys.argv[1]).read_bytes()), hooks)


if __name__ == "__main__":
    main()
