"""What a step raises for the whole batch: the request at fault fails, all others get the tokens of a calm run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import FORWARD_KINDS
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.registry import MODES
from trimode.workers.engine import scheduler
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.plan import SamplingPlan

Run = scheduler.Sequence
ERRORS: list[Exception] = [
    TypeError("a"),
    ZeroDivisionError(),
    MemoryError(),
    RecursionError(),
    OverflowError("int too large"),
    RuntimeError("shape mismatch"),
    torch.OutOfMemoryError("no room"),
    KeyError("x"),
    AssertionError(),
]
PROMPTS = [[5, 6, 7, 8 + number] * (3 + 4 * number) for number in range(6)]


def ask(runtime: Runtime) -> list[Run]:
    """Six requests of all modes, greedy and sampled, with different prompts."""
    return [
        runtime.submit(
            str(number),
            {
                "prompt_ids": prompt, "mode": ["ar", "dlm", "linear_spec"][number % 3], "max_new_tokens": 20,
                "temperature": 0.9 * (number % 2), "seed": number, "ignore_eos": True, "block_length": 4,
            },
        )
        for number, prompt in enumerate(PROMPTS)
    ]  # fmt: skip


def finish(runtime: Runtime) -> None:
    for _ in range(500):
        if not runtime.engine.busy:
            return
        runtime.engine.step()
    raise AssertionError("the engine does not come to rest")


@pytest.fixture(scope="module")
def calm() -> list[list[int]]:
    """The tokens of the six requests when nothing goes wrong."""
    runtime = Runtime(micro_settings())
    sequences = ask(runtime)
    finish(runtime)
    return [sequence.state.tokens() for sequence in sequences]


def failing(runtime: Runtime, guilty: list[Run], error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its third step on, sampling raises if a guilty request is in the batch."""
    sampler = runtime.engine.runner.sampler
    launch = sampler.launch
    calls = 0

    def sample(hidden: torch.Tensor, plan: SamplingPlan, *rest: Any) -> object:
        nonlocal calls
        calls += 1
        if calls > 2 and any(request.params is bad.state.params for request in plan.requests for bad in guilty):
            raise error
        return launch(hidden, plan, *rest)

    monkeypatch.setattr(sampler, "launch", sample)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("guilty", [{"0"}, {"2", "5"}], ids=["one", "two"])
def test_only_the_guilty_fail(
    calm: list[list[int]], error: Exception, guilty: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(micro_settings())
    sequences = ask(runtime)
    failing(runtime, [s for s in sequences if s.request_id in guilty], error, monkeypatch)
    finish(runtime)
    for sequence, tokens in zip(sequences, calm, strict=True):
        if sequence.request_id in guilty:
            assert sequence.error is not None
            assert (sequence.error.status, type(error).__name__ in sequence.error.message) == (500, True)
        else:
            assert sequence.error is None
            assert sequence.state.tokens() == tokens
    engine = runtime.engine
    for kind in FORWARD_KINDS:
        assert engine.counters.rows[kind] == sum(s.state.forwards[kind] for s in sequences)
    assert (engine.counters.requests_failed, engine.allocator.num_free) == (len(guilty), engine.allocator.num_pages)


def test_a_batch_that_is_too_large_runs_in_parts(calm: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(micro_settings())
    sequences = ask(runtime)
    forward = runtime.engine.model.forward

    def small(batch: object, cache: object) -> torch.Tensor:
        if len(batch.order) > 2:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("no room")
        return forward(batch, cache)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime.engine.model, "forward", small)
    finish(runtime)
    assert [sequence.error for sequence in sequences] == [None] * 6
    assert [sequence.state.tokens() for sequence in sequences] == calm


def test_a_request_without_room_fails_alone_and_says_what_to_lower(
    calm: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(micro_settings())
    sequences = ask(runtime)
    failing(runtime, [sequences[3]], torch.OutOfMemoryError("no room"), monkeypatch)
    finish(runtime)
    error = sequences[3].error
    assert error is not None
    assert "no memory for its" in error.message
    assert "lower kv_cache_gb, or max_num_seqs (got 8)" in error.message
    others = [n for n in range(6) if n != 3]
    assert [sequences[n].error for n in others] == [None] * 5
    assert [sequences[n].state.tokens() for n in others] == [calm[n] for n in others]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: out of memory")],
    ids=["torch", "driver"],
)
def test_a_device_without_memory_for_any_request_is_the_worker_s_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(micro_settings())
    sequences = ask(runtime)

    def forward(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(runtime.engine.model, "forward", forward)
    with pytest.raises(
        WorkerError, match=r"6 requests.*1 request and 12 tokens; lower kv_cache_gb, or max_num_seqs \(got 8\)"
    ):
        runtime.engine.step()
    assert [sequence.error for sequence in sequences] == [None] * 6  # they may run elsewhere


def test_a_chunk_that_cannot_be_packed_fails_its_request(calm: list[list[int]]) -> None:
    """A token id that no integer of the device holds."""
    runtime = Runtime(micro_settings())
    sequences = ask(runtime)
    bad = runtime.submit("bad", {"prompt_ids": [1, 2], "mode": "ar", "max_new_tokens": 9, "ignore_eos": True})
    runtime.engine.step()
    bad.state.output[-1] = 10**400
    finish(runtime)
    assert bad.error is not None
    assert [sequence.state.tokens() for sequence in sequences] == calm


class BadNumbers(ArState):
    """Cannot say what it needs or what it has cost."""

    broken: str

    @property
    def max_kv_tokens(self) -> int:
        if self.broken == "admission":
            raise ZeroDivisionError
        return super().max_kv_tokens

    @staticmethod
    def nfe(forwards: object) -> int:  # noqa: ARG004 -- the signature of DecodeState
        raise ZeroDivisionError


@pytest.mark.parametrize("broken", ["admission", "count"])
def test_faults_outside_of_the_forward_fail_their_request(
    calm: list[list[int]], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    runtime = Runtime(micro_settings())
    monkeypatch.setitem(MODES, "bad", BadNumbers)
    monkeypatch.setattr(BadNumbers, "broken", "", raising=False)
    bad = runtime.submit("bad", {"prompt_ids": [1, 2], "mode": "bad", "max_new_tokens": 3, "ignore_eos": True})
    monkeypatch.setattr(BadNumbers, "broken", broken)
    sequences = ask(runtime)
    finish(runtime)
    assert isinstance(bad.error, GenerationError)
    assert bad.error.status == 500
    assert [sequence.state.tokens() for sequence in sequences] == calm


@pytest.mark.parametrize(
    "lost",
    [
        lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        lambda: RuntimeError("CUDA error: unspecified launch failure"),
        lambda: WorkerError("the device is gone"),
    ],
    ids=["accelerator", "runtime", "worker"],
)
def test_a_lost_device_is_no_fault_of_a_request(lost: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(micro_settings())
    ask(runtime)

    def forward(*_: object) -> torch.Tensor:
        raise lost()

    monkeypatch.setattr(runtime.engine.model, "forward", forward)
    with pytest.raises(WorkerError):
        runtime.engine.step()


def test_a_device_that_does_not_compute_any_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says nothing of the device, but the device fails on the smallest task too."""
    runtime = Runtime(micro_settings())
    ask(runtime)

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError("something")

    monkeypatch.setattr(runtime.engine.model, "forward", fail)
    monkeypatch.setattr(runtime.engine.runner, "probe", fail)
    with pytest.raises(WorkerError, match="device"):
        runtime.engine.step()


def test_an_interrupt_is_no_fault_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(micro_settings())
    failing(runtime, ask(runtime)[:1], KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        finish(runtime)
