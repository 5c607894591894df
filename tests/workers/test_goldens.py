"""All golden decodes of the micro model, alone and in mixed batches."""

from __future__ import annotations

import random

import pytest
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import Case, load_cases
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.runtime import Runtime

CASES = load_cases()


def run(runtime: Runtime, cases: list[Case]) -> dict[str, Sequence]:
    sequences = {case.name: runtime.submit(case.name, case.fields) for case in cases}
    while runtime.engine.busy:
        runtime.engine.step()
    return sequences


def check(sequence: Sequence, case: Case, runtime: Runtime) -> None:
    generation = runtime.generation(sequence)
    assert (generation.token_ids, generation.cost.nfe, generation.trace) == (case.tokens, case.nfe, case.trace), (
        case.name
    )


def test_there_are_all_entries() -> None:
    assert len(CASES) == 176


@pytest.mark.parametrize("prompt", [0, 5, 10, 15])
def test_alone(micro: Runtime, prompt: int) -> None:
    for case in CASES:
        if case.name.startswith(f"{prompt}-"):
            check(run(micro, [case])[case.name], case, micro)


@pytest.mark.slow
@pytest.mark.parametrize("order_seed", [0, 1])
def test_in_mixed_batches(order_seed: int) -> None:
    runtime = Runtime(micro_settings(max_num_seqs=32))
    cases = list(CASES)
    random.Random(order_seed).shuffle(cases)
    sequences = run(runtime, cases)
    for case in cases:
        check(sequences[case.name], case, runtime)
    assert runtime.engine.counters.requests_finished == len(cases)
