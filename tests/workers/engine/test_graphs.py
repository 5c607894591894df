"""Steps as captured graphs, on the CPU's stand-in for CUDA graphs: the same tokens, and nothing that a graph cannot do.

The same cases run with real graphs where there is a GPU.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from trimode.core.errors import WorkerError
from trimode.kernels.cuda import runtime as cuda_runtime
from trimode.tests.fakes.capture import CheckedCapture
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import Case, load_cases
from trimode.workers.engine.buckets import Bucket, Kind
from trimode.workers.engine.capture import Capture, CudaCapture, graphs_for
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.graphs import Graphs
from trimode.workers.engine.runner import InFlight, Runner
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.scheduler import Sequence as Running
from trimode.workers.runtime import Runtime

CONTEXT = 192
"""Holds every golden. Short, because the attention of the CPU's graphs reads whole page tables."""
CASES = load_cases()
PAGES = 400
PROMPT = list(range(3, 72))
"""Its beginnings are continued in many different ways."""


def with_graphs(capture: Capture, max_num_seqs: int, device: str = "cpu") -> Runtime:
    """The micro model in an engine whose steps run as graphs."""
    runtime = Runtime(micro_settings(max_num_seqs=max_num_seqs, max_position_embeddings=CONTEXT, device=device))
    runtime.engine = Engine(runtime.engine.model, PAGES, max_num_seqs, capture=capture)
    runtime.captured = runtime.engine.warm_up()
    return runtime


def graphs_of(runtime: Runtime) -> Graphs:
    graphs = runtime.engine.runner.graphs
    assert graphs is not None
    return graphs


@pytest.fixture(scope="module")
def capture() -> CheckedCapture:
    return CheckedCapture(lazy=True)


@pytest.fixture(scope="module")
def runtime(capture: CheckedCapture) -> Iterator[Runtime]:
    """Eight slots. Tests must leave its engine empty."""
    torch.set_num_threads(1)
    yield with_graphs(capture, 8)


def run(runtime: Runtime, cases: list[Case]) -> dict[str, Running]:
    sequences = {case.name: runtime.submit(case.name, case.fields) for case in cases}
    while runtime.engine.busy:
        runtime.engine.step()
    return sequences


def check(runtime: Runtime, cases: list[Case]) -> None:
    sequences = run(runtime, cases)
    for case in cases:
        generation = runtime.generation(sequences[case.name])
        got = (generation.token_ids, generation.cost.nfe, generation.trace)
        assert got == (case.tokens, case.nfe, case.trace), case.name


def of_prompts(*prompts: int) -> list[Case]:
    """The golden decodes of these prompts: each one in all modes."""
    return [case for case in CASES if int(case.name.split("-")[0]) in prompts]


def test_goldens_alone(runtime: Runtime) -> None:
    names = {"3-ar", "3-dlm_0.6", "3-linear_spec_0.0", "3-linear_spec_0.7"}
    cases = [case for case in CASES if case.name in names]
    assert len(cases) == len(names)
    for case in cases:
        check(runtime, [case])


def test_goldens_of_all_modes_together(runtime: Runtime, capture: CheckedCapture) -> None:
    before, steps = capture.num_replayed, runtime.engine.counters.steps
    check(runtime, of_prompts(7))
    assert capture.num_replayed - before > (runtime.engine.counters.steps - steps) / 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_prompts_run_as_graphs_beside_requests_that_decode(
    runtime: Runtime, micro: Runtime, capture: CheckedCapture, temperature: float
) -> None:
    more = {"ignore_eos": True, "temperature": temperature, "seed": 3}
    prompts: list[dict[str, object]] = [
        more | {"mode": "ar", "prompt_ids": [5, 6], "max_new_tokens": 9},
        more | {"mode": "linear_spec", "prompt_ids": PROMPT[:67], "max_new_tokens": 5},
        more | {"mode": "ar", "prompt_ids": [*PROMPT, *PROMPT[:50]], "max_new_tokens": 3, "prompt_logprobs": 0},
        more | {"mode": "dlm", "prompt_ids": PROMPT[:30], "max_new_tokens": 8, "block_length": 4},
    ]
    found = []
    for one in (runtime, micro):
        replayed, steps = capture.num_replayed, one.engine.counters.steps
        sequences = [one.submit("first", prompts[0])]
        one.engine.step()
        sequences += [one.submit(str(number), fields) for number, fields in enumerate(prompts[1:])]
        while one.engine.busy:
            one.engine.step()
        assert [sequence.error for sequence in sequences] == [None] * 4
        found.append([one.generation(sequence).token_ids for sequence in sequences])
        if one is runtime:
            assert capture.num_replayed - replayed == one.engine.counters.steps - steps
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [5, 10, 15])
def test_more_goldens_alone(runtime: Runtime, prompt: int) -> None:
    for case in of_prompts(prompt):
        check(runtime, [case])


@pytest.mark.slow
@pytest.mark.parametrize("order_seed", [0, 1])
def test_all_goldens_in_mixed_batches(order_seed: int) -> None:
    cases = list(CASES)
    random.Random(order_seed).shuffle(cases)
    check(with_graphs(CheckedCapture(lazy=True), 32), cases)


@pytest.mark.cuda
@pytest.mark.parametrize("order_seed", [0, 1])
def test_all_goldens_in_mixed_batches_as_cuda_graphs(order_seed: int) -> None:
    cases = list(CASES)
    random.Random(order_seed).shuffle(cases)
    check(with_graphs(CudaCapture(torch.device("cuda")), 32, "cuda"), cases)


SAMPLED = [
    {"mode": "ar", "temperature": 0.8, "top_p": 0.9, "seed": 1},
    {"mode": "dlm", "temperature": 0.7, "seed": 2, "block_length": 4, "threshold": 0.6},
    {"mode": "linear_spec", "temperature": 0.9, "seed": 3, "block_length": 8, "lora": True},
    {"mode": "linear_spec", "temperature": 0.9, "acceptance": "equality", "block_length": 4},
    {"mode": "ar", "repetition_penalty": 1.3},
    {"mode": "dlm", "repetition_penalty": 1.2, "block_length": 4, "logprobs": True},
    {"mode": "linear_spec", "max_thinking_tokens": 6, "end_think_token_id": 9, "logprobs": True, "block_length": 8},
    {"mode": "ar", "logprobs": True},
]
"""What only the sampler does, and one greedy request beside it."""


def answers(runtime: Runtime, requests: list[dict[str, object]]) -> list[tuple[list[int], list[float] | None, int]]:
    """Tokens, log-probabilities and NFE of requests that run together."""
    sequences = []
    for number, fields in enumerate(requests):
        whole = {"prompt_ids": PROMPT[: 20 + 7 * number], "max_new_tokens": 14, "ignore_eos": True} | fields
        sequences.append(runtime.submit(str(number), whole))
    while runtime.engine.busy:
        runtime.engine.step()
    found = [runtime.generation(sequence) for sequence in sequences]
    return [(answer.token_ids, answer.logprobs, answer.cost.nfe) for answer in found]


@pytest.mark.parametrize("together", [True, False])
def test_sampled_requests_get_the_tokens_of_the_eager_path(runtime: Runtime, micro: Runtime, together: bool) -> None:
    batches = [SAMPLED] if together else [[request] for request in SAMPLED]
    for batch in batches:
        for got, expected in zip(answers(runtime, batch), answers(micro, batch), strict=True):
            assert (got[0], got[2]) == (expected[0], expected[2])
            assert got[1] is None or got[1] == pytest.approx(expected[1], abs=1e-4)


def test_a_cycle_is_one_step(runtime: Runtime, micro: Runtime, capture: CheckedCapture) -> None:
    """Blocks of several lengths, with and without the adapter."""
    requests: list[dict[str, object]] = [
        {"mode": "linear_spec", "block_length": 32, "max_new_tokens": 40, "lora": True},
        {"mode": "linear_spec", "block_length": 16, "max_new_tokens": 40},
        {"mode": "linear_spec", "block_length": 9, "max_new_tokens": 40, "lora": True, "logprobs": True},
    ]
    before = dataclasses.replace(runtime.engine.counters, rows=dict(runtime.engine.counters.rows))
    replayed = capture.num_replayed
    got, expected = answers(runtime, requests), answers(micro, requests)
    assert [(tokens, nfe) for tokens, _, nfe in got] == [(tokens, nfe) for tokens, _, nfe in expected]
    assert got[2][1] == pytest.approx(expected[2][1], abs=1e-4)
    after = runtime.engine.counters
    drafts, verifies = (after.rows[kind] - before.rows[kind] for kind in ("draft", "verify"))
    assert drafts == verifies > 6
    # The prompts and the cycles: each cycle is two forwards and one graph.
    assert after.steps - before.steps == 1 + 2 * (capture.num_replayed - replayed - 1)  # the prompts, and cycles


def test_requests_that_draft_and_verify_in_turns_meet(runtime: Runtime) -> None:
    """The second one arrives between the draft and the verify of the first one."""
    fields = {"mode": "linear_spec", "max_new_tokens": 60, "ignore_eos": True, "block_length": 32}
    first = runtime.submit("first", fields | {"prompt_ids": [5, 6, 7]})
    runtime.engine.step()
    second = runtime.submit("second", fields | {"prompt_ids": [9, 8]})
    kinds = []
    for _ in range(3):
        before = dict(runtime.engine.counters.rows)
        runtime.engine.step()
        kinds.append({kind: n - before[kind] for kind, n in runtime.engine.counters.rows.items() if n > before[kind]})
    assert kinds == [{"prefill": 1, "draft": 1}, {"verify": 1}, {"draft": 2, "verify": 2}]
    while runtime.engine.busy:
        runtime.engine.step()
    assert (first.error, second.error) == (None, None)


def test_padding_harms_nobody(runtime: Runtime, micro: Runtime) -> None:
    """Tokens of no row get NaN from attention, so the spare page and all padded results are NaN."""
    cache = runtime.engine.runner.cache
    requests: list[dict[str, object]] = [{"mode": "ar"}] * 3 + [{"mode": "dlm", "block_length": 6}]
    assert [found[0] for found in answers(runtime, requests)] == [found[0] for found in answers(micro, requests)]
    spare = [cache.layer(number)[cache.spare_page] for number in range(4)]
    assert [bool(page.isnan().any()) for page in spare] == [False, True, True, True]  # from the second layer on
    others = [cache.layer(number)[: cache.spare_page] for number in range(4)]
    assert all(pages.isfinite().all() for pages in others)


def test_a_request_whose_numbers_are_not_finite_fails_alone(runtime: Runtime) -> None:
    modes = ("linear_spec", "dlm", "linear_spec")
    requests: list[dict[str, object]] = [
        {"mode": mode, "block_length": 4, "max_new_tokens": 14, "ignore_eos": True, "prompt_ids": PROMPT[n : n + 12]}
        for n, mode in enumerate(modes)
    ]
    expected = answers(runtime, requests)
    sequences = [runtime.submit(str(n), fields) for n, fields in enumerate(requests)]
    for _ in range(2):
        runtime.engine.step()
    bad = sequences[2]
    for number in range(4):
        runtime.engine.runner.cache.layer(number)[bad.pages] = float("nan")
    while runtime.engine.busy:
        runtime.engine.step()
    assert bad.error is not None
    assert "not finite" in bad.error.message
    for sequence, answer in zip(sequences[:2], expected, strict=False):
        assert sequence.error is None
        assert sequence.state.tokens() == answer[0]
    assert runtime.engine.allocator.num_free == runtime.engine.allocator.num_pages


def test_all_graphs_are_captured_before_the_first_step_from_the_largest_on() -> None:
    capture = CheckedCapture()
    runtime = with_graphs(capture, 1)
    cache = runtime.engine.runner.cache
    for number in range(4):  # capturing leaves no trace
        assert not cache.layer(number)[: cache.spare_page].any()
    buckets = graphs_of(runtime).buckets
    assert capture.num_recorded == len(buckets)
    # once per layer of each recording's first forward, not of the verify that follows a draft in its cycle
    assert capture.layers == list(range(runtime.engine.model.config.num_layers)) * len(buckets)
    assert [bucket.tokens for bucket in buckets] == sorted((bucket.tokens for bucket in buckets), reverse=True)
    assert str(runtime.captured).startswith(
        f"{len(buckets)} graphs, the largest a greedy pass of 513 tokens and 1 requests"
    )
    assert runtime.describe_kernels()["graphs"] == str(runtime.captured)
    check(runtime, [case for case in of_prompts(1) if case.name == "1-dlm_0.6"])
    assert capture.num_recorded == len(buckets)


def test_only_what_is_captured_runs_as_a_graph(micro: Runtime) -> None:
    capture = CheckedCapture(lazy=True)
    runtime = Runtime(micro_settings(max_num_seqs=2, max_position_embeddings=CONTEXT))
    runtime.engine = Engine(runtime.engine.model, PAGES, 2, capture=capture)
    requests: list[dict[str, object]] = [{"mode": "linear_spec", "block_length": 8}, {"mode": "ar"}]
    expected = [found[0] for found in answers(micro, requests)]
    assert [found[0] for found in answers(runtime, requests)] == expected
    assert capture.num_recorded == 0
    graphs = graphs_of(runtime)
    graphs.capture([bucket for bucket in graphs.buckets if bucket.kind is Kind.GREEDY and bucket.tokens >= 8])
    assert [found[0] for found in answers(runtime, requests)] == expected
    assert 0 < capture.num_recorded <= 4


class Full(CheckedCapture):
    """A device without room for the graphs of a size."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def record(self, body: Callable[[], None], outside: Sequence[object]) -> Callable[[], None]:  # noqa: ARG002
        self.num_recorded += 1
        if self.num_recorded == 4:
            try:
                raise self.error
            finally:
                self.end()
        return body

    def end(self) -> None:
        """Ends the capture."""


class BrokenEnd(Full):
    """Ending a capture that went wrong raises another error."""

    def end(self) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize("kind", [Full, BrokenEnd])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("Tried to allocate 2.00 GiB"), torch.AcceleratorError("CUDA error: out of memory")],
    ids=["torch", "driver"],
)
def test_a_graph_without_room_is_named(kind: type[Full], error: Exception) -> None:
    named = r"no room for the CUDA graph of a [a-z ]+ of \d+ tokens and \d+ requests of [\d-]+.*; lower kv_cache_gb or "
    with pytest.raises(WorkerError, match=named):
        with_graphs(kind(error), 2)


def test_another_error_in_a_capture_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="illegal"):
        with_graphs(Full(RuntimeError("an illegal instruction")), 2)


def test_without_a_gpu_steps_run_without_graphs(micro: Runtime) -> None:
    assert graphs_for(micro.engine.model) is None
    assert micro.engine.runner.graphs is None
    assert "graphs" not in micro.describe_kernels()


class AheadRunner(Runner):
    """Stands for a device that works beside the host."""

    num_ahead = 0
    """Graphs that were launched before the results of the step before them were read."""

    @property
    def asynchronous(self) -> bool:
        return True

    def _launch_graph(self, bucket: Bucket, ordered: Sequence[ScheduledChunk], after: InFlight | None) -> InFlight:
        self.num_ahead += after is not None
        return super()._launch_graph(bucket, ordered, after)


@pytest.fixture
def ahead(runtime: Runtime) -> Iterator[AheadRunner]:
    """The engine of `runtime` launches steps ahead."""
    runner = runtime.engine.runner
    runner.__class__ = AheadRunner
    assert isinstance(runner, AheadRunner)
    runner.num_ahead = 0
    yield runner
    runner.__class__ = Runner


def test_graphs_are_launched_ahead(runtime: Runtime, micro: Runtime, ahead: AheadRunner) -> None:
    """After steps with and without a graph, greedy and sampled."""
    requests: list[dict[str, object]] = [{"mode": "ar"}, {"mode": "ar", "temperature": 0.8, "seed": 3}, {"mode": "ar"}]
    expected = answers(micro, requests)
    assert [(tokens, nfe) for tokens, _, nfe in answers(runtime, requests)] == [(t, nfe) for t, _, nfe in expected]
    assert ahead.num_ahead == 13  # every step after that of the prompts
    ahead.num_ahead = 0
    greedy = [requests[0], requests[2]]
    assert [found[0] for found in answers(runtime, greedy)] == [found[0] for found in answers(micro, greedy)]
    assert ahead.num_ahead == 13


def test_goldens_of_all_modes_launched_ahead(runtime: Runtime, ahead: AheadRunner) -> None:
    for mode in ("ar", "linear_spec"):
        cases = [case for case in of_prompts(1, 9) if case.fields["mode"] == mode]
        check(runtime, [case for case in cases if "think" not in case.name])
    assert ahead.num_ahead > 20
    check(runtime, of_prompts(2)[:8])


@pytest.mark.slow
@pytest.mark.skipif(not cuda_runtime.is_interpreter(), reason="Triton's interpreter is off where there is a GPU")
@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_the_gpu_s_kernels_in_a_graph(micro: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """In Triton's interpreter: they are launched with what a graph knows, and give the same tokens."""
    fields: dict[str, object] = {"prompt_ids": PROMPT[:8], "mode": mode, "max_new_tokens": 5, "ignore_eos": True}
    fields |= {} if mode == "ar" else {"block_length": 8}
    fields |= {"lora": True} if mode == "linear_spec" else {}
    (expected,) = answers(micro, [fields])
    capture = CheckedCapture(lazy=True)
    monkeypatch.setattr(cuda_runtime, "launch", capture.watched(cuda_runtime.launch))
    with cuda_runtime.interpreted():
        runtime = Runtime(micro_settings(max_num_seqs=2, max_position_embeddings=64))
        runtime.engine = Engine(runtime.engine.model, 20, 2, capture=capture)
        runtime.engine.warm_up()
        (got,) = answers(runtime, [fields])
    assert got[0] == expected[0]
    assert got[2] == expected[2]
    assert {"_attend", "_rms_norm"} <= capture.launched


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_alternatives_come_from_the_sampler_behind_a_graph(
    runtime: Runtime, capture: CheckedCapture, micro: Runtime, mode: str
) -> None:
    """A graph's table has no room for them, so it runs the forward only."""
    fields = {"prompt_ids": PROMPT[:20], "mode": mode, "max_new_tokens": 12, "ignore_eos": True, "logprobs": True}
    fields |= {"top_logprobs": 3, "block_length": 1 if mode == "ar" else 4}
    before = capture.num_replayed
    got = []
    for one in (runtime, micro):
        sequence = one.submit("r", fields)
        while one.engine.busy:
            one.engine.step()
        got.append(one.generation(sequence))
    assert capture.num_replayed > before
    assert got[0].token_ids == got[1].token_ids
    assert got[0].top_logprobs is not None
    assert got[1].top_logprobs is not None
    for ours, theirs in zip(got[0].top_logprobs, got[1].top_logprobs, strict=True):
        assert [token for token, _ in ours] == [token for token, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], abs=1e-3)
