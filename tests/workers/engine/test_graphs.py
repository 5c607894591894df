"""Steps as captured graphs, on the CPU's stand-in for CUDA graphs: the same tokens, and nothing that a graph cannot do.

The same cases run with real graphs where there is a GPU.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from trimode.tests.fakes.capture import CheckedCapture
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import Case, load_cases
from trimode.workers.engine.capture import Capture, CudaCapture
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.graphs import Graphs
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.runtime import Runtime

CONTEXT = 192
"""Holds every golden. Short, because the attention of the CPU's graphs reads whole page tables."""
CASES = load_cases()
PAGES = 400


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


def run(runtime: Runtime, cases: list[Case]) -> dict[str, Sequence]:
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


@pytest.mark.parametrize("prompt", [3, 12])
def test_goldens_alone(runtime: Runtime, prompt: int) -> None:
    for case in of_prompts(prompt):
        check(runtime, [case])


def test_goldens_of_all_modes_together(runtime: Runtime, capture: CheckedCapture) -> None:
    before, steps = capture.num_replayed, runtime.engine.counters.steps
    check(runtime, of_prompts(0, 7, 14))
    # Steps with prompts run without a graph.
    assert capture.num_replayed - before > (runtime.engine.counters.steps - steps) / 2


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
