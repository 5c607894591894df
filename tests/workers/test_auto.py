"""auto in the engine: ar's tokens on every golden prompt, whatever the widths of its cycles and whoever runs beside it.

The bits are those of the compiled CPU kernels, see docs/kernels.md on batch invariance.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from trimode.core.continuation import Continuation, join
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import WorkerSettings
from trimode.kernels.llvm.jit import num_lanes
from trimode.tests.fakes.asynchronous import make_late
from trimode.tests.fakes.capture import CheckedCapture
from trimode.tests.fakes.widths import ScriptedChooser, random_widths
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import load_cases
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.engine.widths import Widths
from trimode.workers.runtime import Runtime

pytestmark = pytest.mark.skipif(not num_lanes(), reason="bitwise only with our CPU kernels")

Json = dict[str, Any]
CASES = [case for case in load_cases() if case.fields["mode"] == "ar"]
PROMPTS = [case.fields["prompt_ids"] for case in CASES]
SHARED: Json = {"max_new_tokens": 40, "ignore_eos": True, "logprobs": True}
KINDS: dict[str, Json] = {
    "greedy": {},
    "adapter": {"lora": True},
    "end tokens": {"ignore_eos": False},
    "narrow": {"block_length": 5},
    "many passes": {"threshold": 0.5},
    "sampled": {"temperature": 0.8, "seed": 5, "top_p": 0.9},
    "sampled with the adapter": {"temperature": 1.0, "seed": 3, "lora": True},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "bias": {"logit_bias": [[20, -3.0], [24, 2.0]]},
    "thinking": {"max_thinking_tokens": 9, "end_think_token_id": 30},
    "sampled thinking": {"max_thinking_tokens": 13, "end_think_token_id": 30, "temperature": 1.0},
    "alternatives": {"top_logprobs": 3},
    "rated prompt": {"prompt_logprobs": 2},
    "a stop token": {"stop_token_ids": [18]},
}


class RandomWidths(Widths):
    """Gives random widths, which change with every cycle."""

    def __init__(self, seed: object) -> None:
        super().__init__()
        self.chance = random.Random(str(seed))
        self.choosers: list[ScriptedChooser] = []

    def new_chooser(self, most: int) -> Any:  # noqa: ARG002 -- the state caps its width itself
        self.choosers.append(ScriptedChooser(random_widths(self.chance.random())))
        return self.choosers[-1]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime(micro_settings())


def fresh(runtime: Runtime, seed: object) -> None:
    """Gives the runtime an engine that has computed nothing yet and chooses widths at random."""
    old = runtime.engine
    runtime.engine = Engine(old.model, old.allocator.num_pages, 8, prefill_slice=16)
    runtime.engine.planner.widths = RandomWidths(seed)


def run(runtime: Runtime, wanted: list[Json]) -> list[Sequence]:
    sequences = [runtime.submit(str(number), fields) for number, fields in enumerate(wanted)]
    while runtime.engine.busy:
        runtime.engine.step()
    return sequences


def promised(runtime: Runtime, sequence: Sequence) -> Json:
    """What does not depend on widths: all that a client asks for, and the forwards of the prompt."""
    assert sequence.error is None, sequence.error
    found = runtime.generation(sequence).to_json()
    names = ("token_ids", "text", "finish_reason", "logprobs", "top_logprobs", "prompt_tokens", "completion_tokens")
    rated = ("prompt_token_ids", "prompt_logprobs", "prompt_top_logprobs")
    return {name: found[name] for name in (*names, *rated)} | {"prefill": found["forwards"]["prefill"]}


def check_ledger(runtime: Runtime, sequence: Sequence) -> None:
    cost, trace = runtime.generation(sequence).cost, sequence.state.trace
    assert trace is not None
    assert cost.completion_tokens == 1 + cost.forwards["decode"] + sum(cost.acceptance_lengths)
    assert cost.nfe == 1 + cost.forwards["decode"] + cost.forwards["draft"] + cost.forwards["verify"]
    assert cost.widths.get("1", 0) == cost.forwards["decode"]
    assert sum(cost.widths.values()) == len(trace) == cost.forwards["decode"] + cost.forwards["verify"]


def mates(chance: random.Random) -> list[Json]:
    """Random requests of all modes, some of which end early."""
    found = []
    for _ in range(chance.randrange(1, 7)):
        mode = chance.choice(["ar", "dlm", "linear_spec", "auto", "auto"])
        fields = {**SHARED, "mode": mode, "prompt_ids": chance.choice(PROMPTS), "temperature": chance.choice([0, 1])}
        found.append(fields | {"max_new_tokens": chance.randrange(1, 24)})
    return found


def as_ar(fields: Json) -> Json:
    return {key: value for key, value in fields.items() if key not in ("block_length", "threshold")} | {"mode": "ar"}


@pytest.mark.parametrize("number", range(16))
def test_every_golden_alone_and_among_others(runtime: Runtime, number: int) -> None:
    chance = random.Random(number)
    for case in CASES:
        if not case.name.startswith(f"{number}-"):
            continue
        fields = {**as_ar(case.fields), "mode": "auto", "lora": chance.random() < 0.5}
        for more in ([], mates(chance), mates(chance)):
            fresh(runtime, (number, len(more)))
            sequence = run(runtime, [fields, *more])[0]
            assert sequence.state.tokens() == case.tokens, case.name
            check_ledger(runtime, sequence)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_request_gets_what_ar_gives(runtime: Runtime, kind: str) -> None:
    chance, seen = random.Random(kind), set[int]()
    for prompt in chance.sample(PROMPTS, 3):
        fields: Json = {**SHARED, **KINDS[kind], "prompt_ids": prompt, "mode": "auto"}
        fresh(runtime, kind)
        ar = promised(runtime, run(runtime, [as_ar(fields)])[0])
        for more in ([], mates(chance)):
            fresh(runtime, (kind, prompt))
            sequence = run(runtime, [fields, *more])[0]
            assert promised(runtime, sequence) == ar
            check_ledger(runtime, sequence)
            seen |= sequence.state.widths.keys()
    assert len(seen) > 2


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("alternatives", "rated prompt", "a stop token")]
)
def test_continued_at_every_boundary(runtime: Runtime, kind: str) -> None:
    """The widths of the rest may differ. What was before the boundary stands in the ledger as it was."""
    fields: Json = {**SHARED, **KINDS[kind], "prompt_ids": PROMPTS[3], "mode": "auto"}
    fresh(runtime, kind)
    sequence = runtime.submit("request", fields)
    found: dict[int, Continuation] = {}
    parts: list[Continuation] = []
    tokens = entries = 0
    while runtime.engine.busy:
        runtime.engine.step()
        at, part = sequence.boundary(), sequence.boundary(tokens, entries)
        if at is not None and part is not None:
            found[at.end] = Continuation.from_json(json.loads(json.dumps(at.to_json())))
            parts.append(part)
            tokens, entries = part.end, len(at.trace or ())
            assert join(parts) == at
    whole = promised(runtime, sequence)
    assert len(found) >= 3
    for at in found.values():
        fresh(runtime, (kind, at.end))
        continued = run(runtime, [fields | {"continuation": at.to_json()}, *mates(random.Random(at.end))])[0]
        assert promised(runtime, continued) == whole
        check_ledger(runtime, continued)
        assert (continued.state.trace or [])[: len(at.trace or ())] == at.trace


def test_stop_strings() -> None:
    runtime = Runtime(WorkerSettings(model=str(PROJECT_DIR / "assets" / "demo_model"), device="cpu", kv_cache_gb=0.1))
    for text, stop in (("mode", "o"), ("a", "the"), ("12 + 30", "4")):
        fields: Json = {"prompt": text, "mode": "auto", "stop": [stop], "max_new_tokens": 30, "ignore_eos": True}
        fresh(runtime, text)
        ar = promised(runtime, run(runtime, [as_ar(fields)])[0])
        fresh(runtime, text)
        assert promised(runtime, run(runtime, [fields])[0]) == ar


@pytest.mark.parametrize("seed", range(3))
def test_steps_launched_ahead_change_nothing(runtime: Runtime, seed: int) -> None:
    chance = random.Random(seed)
    wanted = [
        {**SHARED, **chance.choice(list(KINDS.values())), "prompt_ids": prompt, "mode": "auto"}
        for prompt in chance.sample(PROMPTS, 8)
    ]
    expected = []
    for fields in wanted:
        fresh(runtime, seed)
        expected.append(promised(runtime, run(runtime, [as_ar(fields)])[0]))
    fresh(runtime, seed)
    make_late(runtime.engine)
    sequences = run(runtime, wanted)
    assert [promised(runtime, sequence) for sequence in sequences] == expected
    for sequence in sequences:
        check_ledger(runtime, sequence)


def test_the_engines_own_choice_gives_the_tokens_of_ar(runtime: Runtime) -> None:
    wanted = [{**SHARED, "prompt_ids": prompt, "mode": "auto", "max_new_tokens": 90} for prompt in PROMPTS]
    fresh(runtime, 0)
    ar = [promised(runtime, sequence) for sequence in run(runtime, [as_ar(fields) for fields in wanted])]
    runtime.engine = Engine(runtime.engine.model, runtime.engine.allocator.num_pages, 8, prefill_slice=16)
    sequences = run(runtime, wanted)
    assert [promised(runtime, sequence) for sequence in sequences] == ar
    assert any(width > 1 for sequence in sequences for width in sequence.state.widths)


@pytest.mark.slow
def test_steps_as_graphs_change_nothing(runtime: Runtime) -> None:
    wanted = [
        {"prompt_ids": prompt, "mode": "auto", "max_new_tokens": 40, "ignore_eos": True} for prompt in PROMPTS[:8]
    ]
    fresh(runtime, 1)
    ar = [promised(runtime, sequence) for sequence in run(runtime, [as_ar(fields) for fields in wanted])]
    graphs = Runtime(micro_settings(max_position_embeddings=192))
    graphs.engine = Engine(graphs.engine.model, 400, 8, capture=CheckedCapture(lazy=True))
    graphs.engine.warm_up()
    graphs.engine.planner.widths = RandomWidths(2)
    for some in (wanted, wanted[:1]):
        sequences = run(graphs, some)
        assert [sequence.state.tokens() for sequence in sequences] == [one["token_ids"] for one in ar[: len(some)]]
        for sequence in sequences:
            check_ledger(graphs, sequence)
