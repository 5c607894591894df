"""The stream of samples with a made-up way to ask: what is asked, stored, given up, and how often files are read."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest
from trimode.core.errors import ConfigError, WorkerError
from trimode.core.protocol import NEVER_SCORED, Cost, Row
from trimode.pipeline.analysis.runs import read_run
from trimode.pipeline.client.answer import REQUEST, Answer, Ask, sample_seed
from trimode.pipeline.client.metrics_file import UnansweredError, check_metrics
from trimode.pipeline.client.samples import Scorers, run_tasks
from trimode.pipeline.client.tasks import LoadedTask, load_tasks
from trimode.pipeline.console.progress import Progress
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.nfe import read_nfe_log, read_run_ledger
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.resume import is_finished
from trimode.pipeline.run_folder.rows import ERROR_KIND, INFRASTRUCTURE, read_output, read_rows, read_unscored
from trimode.pipeline.spec import JobSpec, SampleShare
from trimode.tests.fakes.job_process import FakeScoring
from trimode.tests.fakes.specs import client_spec, job_spec, task_spec, write_data

ROWS = 6
COST = Cost(prompt_tokens=3, completion_tokens=10, forwards={"prefill": 1, "decode": 4}, nfe=5, total_s=1.0)


class FakeAsk:
    """Answers every prompt; names in `failures` fail that way as often as is written there."""

    def __init__(self, failures: dict[str, tuple[str, int]] | None = None, text: str = "") -> None:
        self._text = text
        self.names: list[str] = []
        self.seeds: dict[str, int] = {}
        self.most_at_once = 0
        self._at_once = 0
        self._failures = dict(failures or {})

    async def __call__(self, name: str, prompt: str, seed: int) -> Answer:
        self.names.append(name)
        self.seeds[name] = seed
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        kind, left = self._failures.get(name, ("", 0))
        if left:
            self._failures[name] = kind, left - 1
            return Answer(request_id=name, error=f"{kind} failed", error_kind=kind)
        value = prompt.rpartition(" ")[2]
        return Answer(request_id=name, text=self._text or f"\\boxed{{{value}}}", finish_reason="stop", cost=COST)


class Stumbling(FakeScoring):
    """Cannot score the answers 14 and 21."""

    reason = "a crash"

    def submit(self, row: Row) -> Future[Row]:
        verdict = super().submit(row)
        if verdict.result()["predicted_answer"] in ("14", "21"):
            verdict = Future()
            verdict.set_result({"predicted_answer": None, "symbolic_correct": False, "scoring_error": self.reason})
        return verdict


class Refusing(Stumbling):
    """Cannot judge them, however often it is asked."""

    reason = f"{NEVER_SCORED}: KeyError: 'test'"


def run(
    spec: JobSpec, ask: Ask, scorers: list[FakeScoring] | None = None, make_pool: type[FakeScoring] = FakeScoring
) -> tuple[RunFolder, list[LoadedTask]]:
    """One job's stream, from opening the folder to the metrics."""
    folder = RunFolder(spec, RunPaths(Path(spec.run_dir)))
    loaded = load_tasks(folder)
    progress = Progress("fake", lambda _line: None)
    for item in loaded:
        progress.begin(item.benchmark.name, total=1, done=0)

    def open_pool(*arguments: object) -> Scorers:
        pool = make_pool(*arguments)
        if scorers is not None:
            scorers.append(pool)
        return pool

    asyncio.run(run_tasks(folder, loaded, ask, progress, open_pool))
    for item in loaded:
        if folder.has_metrics(item.task):
            check_metrics(folder.paths, item.task, item.rows_asked)
    return folder, loaded


def write_rows(spec: JobSpec, rows: list[dict[str, object]]) -> None:
    path = Path(str(spec.data_dir)) / "gsm8k" / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def failing(kind: str, times: int, *positions: int) -> FakeAsk:
    return FakeAsk({f"gsm8k-rs0-{position}": (kind, times) for position in positions})


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    write_data(tmp_path / "data", ROWS)
    return job_spec(tmp_path, (task_spec(seeds=(0, 1)),))


@pytest.fixture
def one_seed(spec: JobSpec) -> JobSpec:
    return dataclasses.replace(spec, tasks=(task_spec(limit=ROWS),))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each row file is opened for reading."""
    counts: Counter[str] = Counter()
    path_open = Path.open

    def counting_open(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> IO[Any]:
        file: IO[Any] = path_open(self, mode, *arguments, **options)
        if self.name.startswith("output-") and mode.startswith("r"):
            counts[self.name] += 1
        return file

    monkeypatch.setattr(Path, "open", counting_open)
    yield counts


def test_every_sample_is_asked_once_and_has_a_row_and_a_ledger_line(spec: JobSpec) -> None:
    ask = FakeAsk()
    folder, _ = run(spec, ask)
    assert sorted(ask.names) == sorted(f"gsm8k-rs{seed}-{position}" for seed in (0, 1) for position in range(ROWS))
    rows = read_output(folder.paths, "gsm8k", 1)
    assert [(row["expected_answer"], row["symbolic_correct"]) for row in rows] == [(7 * i, True) for i in range(ROWS)]
    keys = [record.key for record in read_nfe_log(folder.paths.nfe_log(0))]
    assert sorted(keys) == [("gsm8k", seed, position) for seed in (0, 1) for position in range(ROWS)]
    assert read_run_ledger(folder.paths.run_dir)["gsm8k", 0, 0].cost == COST
    assert json.loads(folder.paths.metrics("gsm8k").read_text())["nfe_count"] == 2 * ROWS


def test_every_sample_is_asked_with_a_seed_of_its_own_that_it_keeps(spec: JobSpec, one_seed: JobSpec) -> None:
    ask = FakeAsk()
    with pytest.raises(UnansweredError):
        run(one_seed, failing(INFRASTRUCTURE, 1, 1, 3))
    run(spec, ask)
    assert len(set(ask.seeds.values())) == len(ask.seeds)
    assert ask.seeds["gsm8k-rs0-3"] == sample_seed(0, "gsm8k", 3)


def test_finished_samples_are_not_asked_again(one_seed: JobSpec) -> None:
    smaller = dataclasses.replace(one_seed, tasks=(task_spec(limit=2),))
    run(smaller, FakeAsk())
    ask = FakeAsk()
    run(one_seed, ask)
    assert sorted(ask.names) == [f"gsm8k-rs0-{position}" for position in range(2, ROWS)]


def test_a_refused_sample_is_final(one_seed: JobSpec) -> None:
    folder, _ = run(one_seed, failing(REQUEST, 1, 3))
    assert read_output(folder.paths, "gsm8k", 0)[3][ERROR_KIND] == REQUEST
    ask = FakeAsk()
    run(one_seed, ask)
    assert ask.names == []


def test_a_failure_of_the_infrastructure_leaves_the_job_unfinished_and_is_asked_again(one_seed: JobSpec) -> None:
    paths = RunPaths(Path(one_seed.run_dir))
    with pytest.raises(UnansweredError, match=r"gsm8k: 1 of 6 samples have no answer.*16\.67%.*valid: up to 0\.00%"):
        run(one_seed, failing(INFRASTRUCTURE, 1, 3))
    assert not paths.metrics("gsm8k").exists()
    ask = FakeAsk()
    folder, _ = run(one_seed, ask)
    assert ask.names == ["gsm8k-rs0-3"]
    assert "error" not in read_output(folder.paths, "gsm8k", 0)[3]
    records = read_nfe_log(folder.paths.nfe_log(0))
    assert sorted((record.sample_id, record.error) for record in records) == [(i, None) for i in range(ROWS)]


def test_up_to_the_stated_share_of_failures_the_job_completes_and_counts_them(one_seed: JobSpec) -> None:
    half = dataclasses.replace(one_seed, client=client_spec(max_failed_share=0.5))
    folder, _ = run(half, failing(INFRASTRUCTURE, 1, 0, 2, 4))
    metrics = json.loads(folder.paths.metrics("gsm8k").read_text())
    assert (metrics["failed"], metrics["nfe_count"], metrics["average_nfe"]) == (3, ROWS, 2.5)
    assert metrics["gsm8k"]["pass@1"] | {"num_entries": ROWS, "avg_tokens": 5} == metrics["gsm8k"]["pass@1"]
    assert metrics["gsm8k"]["pass@1"]["symbolic_correct"] == 50.0
    again = dataclasses.replace(half, run_dir=half.run_dir + "2")
    with pytest.raises(UnansweredError, match="4 of 6 samples"):
        run(again, failing(INFRASTRUCTURE, 1, 0, 2, 4, 5))


def test_more_failures_remove_the_metrics_of_an_earlier_smaller_run(one_seed: JobSpec) -> None:
    folder, _ = run(dataclasses.replace(one_seed, tasks=(task_spec(limit=2),)), FakeAsk())
    assert folder.paths.metrics("gsm8k").exists()
    with pytest.raises(UnansweredError):
        run(one_seed, failing(INFRASTRUCTURE, 1, 4))
    assert not folder.paths.metrics("gsm8k").exists()


def test_a_benchmark_whose_samples_were_all_refused_fails_each_time(one_seed: JobSpec) -> None:
    refused = failing(REQUEST, 1, *range(ROWS))
    for ask in (refused, FakeAsk()):
        with pytest.raises(UnansweredError, match=r"none of 6 samples has an answer; the first: request failed"):
            run(one_seed, ask)
        assert not is_finished(one_seed)
    assert len(refused.names) == ROWS
    assert ask.names == []


def test_a_share_whose_own_samples_fail_is_unfinished_and_the_other_share_is_not(one_seed: JobSpec) -> None:
    jobs = [
        dataclasses.replace(
            one_seed, index=index, tasks=(dataclasses.replace(task_spec(), chunk=SampleShare(index, 2)),)
        )
        for index in (0, 1)
    ]
    with pytest.raises(UnansweredError, match="1 of 3 samples"):
        run(jobs[0], failing(INFRASTRUCTURE, 1, 1))
    folder, _ = run(jobs[1], FakeAsk())
    assert not folder.paths.metrics("gsm8k").exists()
    folder, _ = run(jobs[0], FakeAsk())
    assert json.loads(folder.paths.metrics("gsm8k").read_text())["failed"] == 0


@pytest.mark.parametrize("key", ["generation", "error", "error_kind", "scoring_error", "num_generated_tokens", "_nfe"])
def test_a_field_of_the_data_never_stands_in_for_the_reply(one_seed: JobSpec, key: str) -> None:
    rows = [{"problem": f"say {i}", "expected_answer": i, key: r"\boxed{1}"} for i in (1, 2)]
    write_rows(one_seed, rows)
    folder, _ = run(one_seed, FakeAsk({}, text=r"\boxed{2}"))
    stored = read_output(folder.paths, "gsm8k", 0)
    assert [row["generation"] for row in stored] == [r"\boxed{2}"] * 2
    assert [row["symbolic_correct"] for row in stored] == [False, True]
    assert [row["num_generated_tokens"] for row in stored] == [10, 10]
    assert not {"error", "error_kind", "scoring_error", "_nfe"} & stored[0].keys()


@pytest.mark.parametrize("key", ["symbolic_correct", "predicted_answer", "interleaved_eval_single_time_s"])
def test_a_field_of_the_data_never_stands_in_for_the_verdict(one_seed: JobSpec, key: str) -> None:
    write_rows(one_seed, [{"problem": "say 1", "expected_answer": 1, key: True}])
    folder, _ = run(one_seed, FakeAsk({}, text="I do not know"))
    (stored,) = read_output(folder.paths, "gsm8k", 0)
    assert (stored["symbolic_correct"], stored["predicted_answer"]) == (False, None)
    assert "interleaved_eval_single_time_s" not in stored


def test_a_nested_field_of_the_data_does_not_make_a_sample_unfinished(one_seed: JobSpec) -> None:
    write_rows(one_seed, [{"problem": "say 1", "expected_answer": 1, "meta": {"error_kind": "infrastructure"}}])
    run(one_seed, FakeAsk())
    ask = FakeAsk()
    run(one_seed, ask)
    assert ask.names == []


def test_an_answer_that_could_not_be_scored_is_counted_and_scored_again_without_asking(one_seed: JobSpec) -> None:
    folder, _ = run(one_seed, FakeAsk(), make_pool=Stumbling)
    metrics = json.loads(folder.paths.metrics("gsm8k").read_text())
    assert metrics["unscored"] == 2
    assert [row["scoring_error"] for row in read_output(folder.paths, "gsm8k", 0)[2:4]] == ["a crash"] * 2
    assert list(read_unscored(one_seed, folder.paths)) == [("gsm8k", 0, position, "a crash") for position in (2, 3)]
    assert not is_finished(one_seed)
    before = read_run_ledger(folder.paths.run_dir)
    ask = FakeAsk()
    folder, _ = run(one_seed, ask)
    assert ask.names == []
    rows = read_output(folder.paths, "gsm8k", 0)
    assert [row["symbolic_correct"] for row in rows] == [True] * ROWS
    assert not any("scoring_error" in row for row in rows)
    assert json.loads(folder.paths.metrics("gsm8k").read_text())["unscored"] == 0
    assert read_run_ledger(folder.paths.run_dir) == before
    assert len(read_nfe_log(folder.paths.nfe_log(0))) == ROWS
    assert is_finished(one_seed)


def test_a_row_that_no_scorer_can_judge_is_named_and_not_tried_again(one_seed: JobSpec) -> None:
    reason = Refusing.reason
    folder, _ = run(one_seed, FakeAsk(), make_pool=Refusing)
    assert json.loads(folder.paths.metrics("gsm8k").read_text())["unscored"] == 2
    assert list(read_unscored(one_seed, folder.paths)) == [("gsm8k", 0, position, reason) for position in (2, 3)]
    assert is_finished(one_seed)


class SlowToOpen(FakeScoring):
    """Takes its time to get ready, as one that first tries out how programs are kept in."""

    stored: ClassVar[list[int]] = []

    def open(self) -> None:
        time.sleep(0.5)
        super().open()
        for path in RunPaths(self.run_dir).task_dir("gsm8k").glob("*-async"):
            self.stored.append(len(path.read_text().splitlines()))

    run_dir = Path()


def test_answers_are_stored_while_the_scorers_get_ready(one_seed: JobSpec) -> None:
    SlowToOpen.run_dir = Path(one_seed.run_dir)
    run(one_seed, FakeAsk(), make_pool=SlowToOpen)
    assert SlowToOpen.stored == [ROWS]


class Dying(FakeScoring):
    """Scores the first two answers. The job is killed while it scores the third."""

    count = 0

    def submit(self, row: Row) -> Future[Row]:
        Dying.count += 1
        if Dying.count > 2:
            raise KeyboardInterrupt
        return super().submit(row)


def test_an_answer_that_was_not_scored_before_a_kill_is_not_asked_again(one_seed: JobSpec) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(one_seed, first := FakeAsk(), make_pool=Dying)
    paths = RunPaths(Path(one_seed.run_dir))
    assert len(read_rows(paths, "gsm8k", 0)) <= 2, "an answer without a verdict is no scored row"
    before = {record.key: record for record in read_nfe_log(paths.nfe_log(0))}
    assert len(before) > 2
    [result] = read_run(paths.run_dir).tasks.values()
    assert len(result.rows) <= 2 and not result.unscored_keys
    ask = FakeAsk()
    folder, _ = run(one_seed, ask)
    assert len(ask.names) == ROWS - len(before) and {*first.names, *ask.names} >= {
        f"gsm8k-rs0-{position}" for position in range(ROWS)
    }
    rows = read_output(folder.paths, "gsm8k", 0)
    assert [row["symbolic_correct"] for row in rows] == [True] * ROWS
    assert not any(key.startswith("_") for row in rows for key in row)
    after = {record.key: record for record in read_nfe_log(paths.nfe_log(0))}
    assert len(after) == ROWS and before.items() <= after.items()
    assert is_finished(one_seed)


def test_samples_that_all_fail_end_the_job_and_leave_the_scorers(one_seed: JobSpec) -> None:
    scorers: list[FakeScoring] = []
    with pytest.raises(WorkerError, match=f"the last {ROWS} samples got no answer"):
        run(one_seed, failing(INFRASTRUCTURE, 1, *range(ROWS)), scorers)
    assert not any(pool.is_open for pool in scorers)
    paths = RunPaths(Path(one_seed.run_dir))
    assert not paths.metrics("gsm8k").exists()
    assert {record.sample_id for record in read_nfe_log(paths.nfe_log(0))} == set(read_rows(paths, "gsm8k", 0))


def test_an_answer_between_failures_keeps_the_job_going(one_seed: JobSpec) -> None:
    with pytest.raises(UnansweredError, match="5 of 6 samples"):
        run(one_seed, failing(INFRASTRUCTURE, 1, 0, 1, 3, 4, 5))
    assert len(read_output(RunPaths(Path(one_seed.run_dir)), "gsm8k", 0)) == ROWS


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_is_asked_at_once_than_the_client_may(spec: JobSpec, limit: int) -> None:
    ask = FakeAsk()
    run(dataclasses.replace(spec, client=client_spec(max_concurrent_requests=limit)), ask)
    assert ask.most_at_once == limit


def test_no_rows_are_the_users_error(one_seed: JobSpec) -> None:
    (Path(str(one_seed.data_dir)) / "gsm8k" / "test.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="gsm8k"):
        run(one_seed, FakeAsk())


def test_a_first_run_reads_every_row_file_once(spec: JobSpec, reads: Counter[str]) -> None:
    run(spec, FakeAsk())
    files = [f"output-rs{seed}.jsonl{suffix}" for seed in (0, 1) for suffix in ("", "-async")]
    assert reads == dict.fromkeys(files, 1)


def test_a_run_with_nothing_left_reads_a_file_to_open_it_and_for_the_metrics(
    spec: JobSpec, reads: Counter[str]
) -> None:
    run(spec, FakeAsk())
    reads.clear()
    run(spec, FakeAsk())
    assert reads == {"output-rs0.jsonl": 2, "output-rs1.jsonl": 2}


def test_shares_read_their_files_to_open_to_merge_and_to_check(spec: JobSpec, reads: Counter[str]) -> None:
    jobs = [
        dataclasses.replace(spec, index=index, tasks=(dataclasses.replace(task, chunk=SampleShare(index, 2)),))
        for index in (0, 1)
        for task in spec.tasks
    ]
    first, _ = run(jobs[0], FakeAsk())
    assert not first.has_metrics(jobs[0].tasks[0])
    last, _ = run(jobs[1], FakeAsk())
    assert last.has_metrics(jobs[1].tasks[0])
    for seed in (0, 1):
        assert reads[f"output-rs{seed}.jsonl"] == 2, "to see that all is merged, and for the metrics"
        assert reads[f"output-rs{seed}_part_0.jsonl-async"] <= 4, (
            "twice by its job's end, once each to open and to merge"
        )
        assert reads[f"output-rs{seed}_part_1.jsonl-async"] == 1
