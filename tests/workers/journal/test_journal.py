"""A worker's journal: what another worker finds after the first is gone, and how little is generated again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trimode.core.errors import GenerationError
from trimode.core.protocol import Generation
from trimode.kernels.llvm.jit import num_lanes
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.journal import journal as module
from trimode.workers.worker import Worker

pytestmark = pytest.mark.skipif(not num_lanes(), reason="bitwise only with our CPU kernels")
Json = dict[str, Any]
PROMPT = [1, 50, 22, 18, 35, 28, 38, 18, 31, 24, 42, 18, 4, 7, 18, 25]
REQUESTS: list[Json] = [
    {"mode": "ar", "temperature": 0.7, "seed": 3},
    {"mode": "dlm", "block_length": 8},
    {"mode": "linear_spec", "block_length": 8, "lora": True},
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers that share a journal."""
    workers: list[Worker] = []

    def start(**settings: Any) -> Worker:
        settings = {"journal": str(tmp_path / "journal")} | settings
        workers.append(Worker(micro_settings(**settings)))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def fields(number: int, tokens: int = 600) -> Json:
    return {"prompt_ids": PROMPT, "max_new_tokens": tokens, "ignore_eos": True, **REQUESTS[number]}


def without_times(generation: Generation) -> Json:
    found = generation.to_json()
    return {k: v for k, v in found.items() if not k.endswith("_s") and k not in ("request_id", "continuations")}


async def begin(worker: Worker, wanted: list[Json], tokens: int) -> list[asyncio.Task[Generation]]:
    """Starts the requests and waits until each has this many tokens."""
    tasks = [asyncio.create_task(worker.generate(each)) for each in wanted]
    engine = worker._runtime.engine
    while len(engine.running) < len(wanted) or any(len(s.state.output) < tokens for s in engine.running):
        await asyncio.sleep(0.001)
    return tasks


def test_a_worker_goes_on_where_another_was_cut_off(start: Callable[..., Worker]) -> None:
    async def cut_off(worker: Worker, wanted: list[Json]) -> None:
        tasks = await begin(worker, wanted, 40)
        await worker.flush()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(worker: Worker, wanted: list[Json]) -> list[Generation]:
        return await asyncio.gather(*(worker.generate(each) for each in wanted))

    wanted = [fields(number) for number in range(3)]
    whole = asyncio.run(run(start(journal=None), wanted))
    asyncio.run(cut_off(start(), wanted))
    second = start()
    found = asyncio.run(run(second, wanted))
    assert [without_times(each) for each in found] == [without_times(each) for each in whole]
    assert [each.cost.continuations for each in found] == [1, 1, 1]
    stats = asyncio.run(second.stats())
    assert stats.continued_requests == 3
    assert stats.continued_tokens >= 3 * 40


def test_a_closed_worker_leaves_no_token_to_generate_again(start: Callable[..., Worker]) -> None:
    known: list[int] = []

    async def close_in_the_middle(worker: Worker) -> None:
        tasks = await begin(worker, [fields(number) for number in range(3)], 30)
        running = list(worker._runtime.engine.running)
        await asyncio.to_thread(worker.close)
        known.extend(len(sequence.state.output) for sequence in running)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(worker: Worker) -> None:
        await asyncio.gather(*(worker.generate(fields(number)) for number in range(3)))

    asyncio.run(close_in_the_middle(start()))
    second = start()
    asyncio.run(run(second))
    assert asyncio.run(second.stats()).continued_tokens == sum(known)


def test_a_request_whose_client_has_left_goes_on_in_the_same_worker(start: Callable[..., Worker]) -> None:
    async def ask_twice(worker: Worker) -> Generation:
        (task,) = await begin(worker, [fields(0)], 40)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while (await worker.stats()).running:
            await asyncio.sleep(0.001)
        await worker.flush()
        return await worker.generate(fields(0))

    worker = start()
    found = asyncio.run(ask_twice(worker))
    assert found.cost.continuations == 1
    assert len(found.token_ids) == 600


def test_short_requests_leave_no_file(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 1000.0)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 1000.0)
    worker = start()
    asyncio.run(worker.generate(fields(0, tokens=3)))
    worker.close()
    assert not (tmp_path / "journal").exists()


def test_lines_are_written_while_a_request_runs(
    start: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.05)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)

    async def watch(worker: Worker) -> None:
        task = asyncio.create_task(worker.generate(fields(0, tokens=4000)))
        while not any(path.read_bytes().count(b"\n") >= 4 for path in (tmp_path / "journal").glob("*")):
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(watch(start()))


@pytest.mark.parametrize(
    ("line_s", "running", "pause_s"),
    [(0.0001, 1, module.LOOK_EVERY_S), (0.0001, 10, 0.25), (0.0002, 10, 0.5), (0.0002, 100, module.EVERY_S)],
)
def test_the_more_lines_cost_the_less_often_a_request_is_written_down(
    tmp_path: Path, line_s: float, running: int, pause_s: float
) -> None:
    journal = module.Journal(tmp_path, "", "")
    journal.num_lines, journal._spent_s, journal._writer.cpu_s = 100 - module.FIRST_LINES, 60 * line_s, 40 * line_s
    assert journal._pause_s(range(running)) == pytest.approx(pause_s)  # type: ignore[arg-type]
    journal.close((), ())


def test_another_adapter_or_dtype_reads_nothing(start: Callable[..., Worker]) -> None:
    async def cut_off(worker: Worker) -> None:
        tasks = await begin(worker, [fields(0)], 20)
        await worker.flush()
        tasks[0].cancel()

    asyncio.run(cut_off(start()))
    for changes in ({"lora": None}, {"dtype": "bfloat16"}):
        assert asyncio.run(start(**changes).generate(fields(0, tokens=600))).cost.continuations == 0


def test_a_folder_that_cannot_be_written_costs_the_journal_only(
    start: Callable[..., Worker], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")

    async def run(worker: Worker) -> Generation:
        tasks = await begin(worker, [fields(0)], 20)
        await worker.flush()
        return await tasks[0]

    assert len(asyncio.run(run(start(journal=str(tmp_path / "file" / "journal")))).token_ids) == 600
    assert "cannot be written" in capfd.readouterr().err


def test_a_request_that_failed_is_not_continued(start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(worker: Worker) -> None:
        tasks = await begin(worker, [fields(1)], 40)
        await worker.flush()
        state = worker._runtime.engine.running[0].state
        monkeypatch.setattr(state, "advance", None)
        with pytest.raises(GenerationError, match="TypeError in the decoder"):
            await tasks[0]
        await worker.flush()

    worker = start()
    asyncio.run(fail(worker))
    assert asyncio.run(worker.generate(fields(1))).cost.continuations == 0


def test_the_digest_covers_all_that_is_asked(start: Callable[..., Worker]) -> None:
    async def cut_off(worker: Worker) -> None:
        tasks = await begin(worker, [fields(0)], 40)
        await worker.flush()
        tasks[0].cancel()

    asyncio.run(cut_off(start()))
    second = start()
    for change in ({"seed": 4}, {"temperature": 0.8}, {"max_new_tokens": 599}, {"prompt_ids": PROMPT[:-1]}):
        assert asyncio.run(second.generate(fields(0) | change)).cost.continuations == 0
    assert asyncio.run(second.generate(fields(0))).cost.continuations == 1
