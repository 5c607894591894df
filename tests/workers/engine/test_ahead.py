"""Steps launched before the results of the step before them are read: every request gets what it gets without that.

The device of these tests computes a step only when the host waits for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from trimode.core.protocol import FORWARD_KINDS
from trimode.tests.fakes.asynchronous import LateRunner, make_late
from trimode.tests.workers.micro import load_cases
from trimode.workers.decode.ar import ArState
from trimode.workers.decode.chunk import Chunk
from trimode.workers.decode.registry import MODES
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.runner import InFlight, StepResult
from trimode.workers.engine.scheduler import ScheduledChunk, Sequence
from trimode.workers.params import parse_params
from trimode.workers.runtime import Runtime
from trimode.workers.sampling.sampler import Sampling

CASES = load_cases()
PROMPT = [1, 50, 22, 18, 35, 28, 38, 18, 31, 24, 42, 18, 4, 7, 18, 25]
Ledger = tuple[object, ...]


@pytest.fixture
def plain(micro: Runtime) -> Iterator[Engine]:
    engine = Engine(micro.engine.model, 400, 8)
    yield engine
    at_rest(engine)


@pytest.fixture
def late(micro: Runtime) -> Iterator[Engine]:
    engine = Engine(micro.engine.model, 400, 8)
    make_late(engine)
    yield engine
    at_rest(engine)


def at_rest(engine: Engine) -> None:
    """Nobody holds a page, and the cache is clean."""
    assert not engine.busy
    assert engine.allocator.num_free == engine.allocator.num_pages
    cache = engine.runner.cache
    assert all(cache.layer(number).isfinite().all() for number in range(engine.model.config.num_layers))


def ask(engine: Engine, find_stop: Any = None, **fields: object) -> Sequence:
    prompt = fields.pop("prompt_ids", PROMPT)
    assert isinstance(prompt, list)
    return engine.add(str(len(engine.waiting)), prompt, parse_params(fields), find_stop)


def finish(engine: Engine) -> list[Sequence]:
    ended = []
    for _ in range(2000):
        if not engine.busy:
            return ended
        ended += engine.step()
    raise AssertionError("the engine does not come to rest")


def ledger(sequence: Sequence) -> Ledger:
    """What a request got and what it cost."""
    state, error = sequence.state, sequence.error
    return (
        state.tokens(), state.logprobs, state.finish_reason, state.forwards, state.trace, state.acceptance_lengths,
        None if error is None else (error.status, error.message),
    )  # fmt: skip


def check_sums(engine: Engine, sequences: list[Sequence]) -> None:
    """The engine counts what the requests count, and nothing that was dropped."""
    for kind in FORWARD_KINDS:
        saved = sum(s.state.forwards_saved for s in sequences) if kind == "prefill" else 0
        assert engine.counters.rows[kind] == sum(s.state.forwards[kind] for s in sequences) - saved, kind


def num_ahead(engine: Engine) -> int:
    assert isinstance(engine.runner, LateRunner)
    return engine.runner.num_ahead


@pytest.mark.parametrize("mode", ["ar", "linear_spec", "dlm", ""])
def test_goldens_in_batches(late: Engine, mode: str) -> None:
    """Batches of one mode and of all: only where every request knows what follows are steps launched ahead."""
    cases = [case for case in CASES if str(case.fields["mode"]).startswith(mode)][:: 1 if mode else 5]
    sequences = [(case, ask(late, **case.fields)) for case in cases]
    finish(late)
    for case, sequence in sequences:
        state = sequence.state
        assert (state.tokens(), state.nfe(state.forwards), state.trace) == (case.tokens, case.nfe, case.trace), case
    check_sums(late, [sequence for _, sequence in sequences])
    assert num_ahead(late) > 0 or mode == "dlm"


def test_alone_every_step_of_ar_but_the_first_is_launched_ahead(late: Engine) -> None:
    sequence = ask(late, mode="ar", max_new_tokens=20, ignore_eos=True)
    finish(late)
    assert (len(sequence.state.tokens()), late.counters.steps, num_ahead(late)) == (20, 20, 19)
    assert late.counters.dropped_rows == 0


@pytest.mark.parametrize("mode", ["ar", "linear_spec"])
def test_a_stop_at_any_token_drops_what_was_launched_ahead(plain: Engine, late: Engine, mode: str) -> None:
    fields: dict[str, object] = {"mode": mode, "max_new_tokens": 24, "ignore_eos": True, "logprobs": True}
    fields["block_length"] = 1 if mode == "ar" else 4
    tokens = ask(plain, **fields)
    finish(plain)
    for place, token in enumerate(tokens.state.tokens()):

        def found(output: Any, _: int, place: int = place) -> int | None:
            return place + 1 if len(output) > place else None

        for stop in ({"stop_token_ids": [token]}, {"find_stop": found}):
            pairs = []
            for engine in (plain, late):
                stopped = ask(engine, **fields, **stop)  # type: ignore[arg-type]
                mate = ask(engine, **fields | {"max_new_tokens": 9})
                finish(engine)
                pairs.append((ledger(stopped), ledger(mate)))
            assert pairs[0] == pairs[1], (place, stop)
            assert pairs[0][0][2] == "stop"
    assert late.counters.dropped_rows >= (2 * 20 if mode == "ar" else 1)


@dataclass
class Visitor:
    """A request that arrives at some step, and may be cancelled or get logits that are not finite."""

    fields: dict[str, object]
    arrives: int
    leaves_at: int | None
    """Output length at which it is cancelled."""
    breaks_at: int | None
    """Output length from which on its logits are not finite."""
    find_stop: Callable[[Any, int], int | None] | None
    sequence: Sequence | None = field(default=None)


def visitors(seed: int) -> list[Visitor]:
    """Every third seed has requests that do not know what follows."""
    chance = random.Random(seed)
    known = seed % 3 > 0
    modes = ["ar", "ar", "broken", "linear_spec", *([] if known else ["linear_spec", "dlm"])]
    found = []
    for number in range(chance.randrange(6, 14)):
        mode = chance.choice(modes)
        fields: dict[str, object] = {
            "prompt_ids": [chance.randrange(3, 72) for _ in range(chance.randrange(1, 40))],
            "mode": mode,
            "max_new_tokens": chance.randrange(1, 30),
            "ignore_eos": chance.random() < 0.8,
            "lora": chance.random() < 0.5,
            "block_length": chance.randrange(1, 6),
            "logprobs": chance.random() < 0.5,
            "seed": number,
            "temperature": chance.choice([0.0, 0.0, 1.2]),
            "acceptance": chance.choice(["equality", "rejection"]),
            "repetition_penalty": chance.choice([1.0, 1.0 if known else 1.4]),
            "stop_token_ids": chance.sample(range(3, 72), chance.choice([0, 0, 3])),
        }
        if chance.random() < 0.2:
            fields |= {"max_thinking_tokens": chance.randrange(8), "end_think_token_id": 9}
        stop = chance.randrange(30)
        found.append(
            Visitor(
                fields,
                arrives=chance.choice([0, 0, 0, chance.randrange(30)]),
                leaves_at=chance.randrange(12) if chance.random() < 0.2 else None,
                breaks_at=chance.randrange(12) if chance.random() < 0.15 else None,
                find_stop=(lambda output, _, stop=stop: stop if len(output) >= stop > 0 else None)
                if chance.random() < 0.3
                else None,
            )
        )
    return found


def run_visitors(engine: Engine, all_visitors: list[Visitor], monkeypatch: pytest.MonkeyPatch) -> list[Ledger]:
    collect = engine.runner.collect

    def collected(in_flight: InFlight) -> StepResult:
        result = collect(in_flight)
        bad = {v.sequence: v.breaks_at for v in all_visitors if v.breaks_at is not None}
        for item, sampled in result.samples:
            at = bad.get(item.sequence)
            if at is not None and len(item.sequence.state.output) >= at:
                sampled.confidences = [float("nan")] * len(sampled.confidences)
        return result

    monkeypatch.setattr(engine.runner, "collect", collected)
    step = 0
    while engine.busy or any(visitor.sequence is None for visitor in all_visitors):
        for visitor in all_visitors:
            if visitor.sequence is None and visitor.arrives <= step:
                visitor.sequence = ask(engine, visitor.find_stop, **visitor.fields)
            sequence, at = visitor.sequence, visitor.leaves_at
            if sequence is not None and at is not None and len(sequence.state.output) >= at and sequence.pages:
                engine.cancel(sequence)
        engine.step()
        step += 1
        assert step < 3000
    sequences = [visitor.sequence for visitor in all_visitors if visitor.sequence is not None]
    check_sums(engine, sequences)
    return [ledger(sequence) for sequence in sequences]


class BrokenState(ArState):
    """Fails at its third token, and cannot say what follows its second."""

    def _next_chunk(self) -> Chunk:
        if len(self.output) == 3:
            raise ZeroDivisionError
        return super()._next_chunk()

    def _following(self, chunk: Chunk, end: int) -> Chunk | None:
        if len(self.output) == 2:
            raise ZeroDivisionError
        return super()._following(chunk, end)


@pytest.mark.parametrize("slots", [2, 8])
@pytest.mark.parametrize("seed", range(12))
def test_any_traffic_gets_the_same_answers_at_the_same_cost(
    plain: Engine, late: Engine, monkeypatch: pytest.MonkeyPatch, seed: int, slots: int
) -> None:
    monkeypatch.setitem(MODES, "broken", BrokenState)
    plain.scheduler.max_num_seqs = late.scheduler.max_num_seqs = slots
    plain._prefill_slice = late._prefill_slice = 7
    expected = run_visitors(plain, visitors(seed), monkeypatch)
    assert run_visitors(late, visitors(seed), monkeypatch) == expected
    assert num_ahead(late) > 0 or seed % 3 == 0
    ours, theirs = late.counters, plain.counters
    for name in ("requests_finished", "requests_failed", "requests_cancelled", "tokens_generated", "nfe", "accepted"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.kv_tokens, ours.step_tokens) == (theirs.kv_tokens, theirs.step_tokens)
    assert theirs.dropped_rows == 0


def test_the_pages_of_a_request_that_ended_are_kept_until_its_last_row_is_done(late: Engine) -> None:
    gone, mate = (ask(late, mode="ar", max_new_tokens=12, ignore_eos=True) for _ in range(2))
    for _ in range(3):
        late.step()
    free, held = late.allocator.num_free, len(gone.pages)
    late.cancel(gone)
    stopped = late.step()
    assert (stopped, gone.pages, late.counters.dropped_rows) == ([gone], [], 1)
    assert late.allocator.num_free == free + held  # its row was in the step that has just been collected
    mate.state.end_token_ids = frozenset(range(200))
    free, held = late.allocator.num_free, len(mate.pages)
    assert late.step() == [mate]
    assert (late.allocator.num_free, late.busy) == (free, True)  # the step after it runs already
    assert late.step() == []
    assert (late.allocator.num_free, late.busy) == (free + held, False)
    assert late.counters.dropped_rows == 2


def test_a_request_that_waits_starts_as_soon_as_it_may(late: Engine) -> None:
    late.scheduler.max_num_seqs = 2
    second, first = (ask(late, mode="ar", max_new_tokens=30, ignore_eos=True) for _ in range(2))
    for _ in range(4):
        late.step()
    third = ask(late, mode="ar", max_new_tokens=3, ignore_eos=True)
    second.state.end_token_ids = frozenset(range(200))
    assert (late.step(), third.started) == ([second], None)
    late.step()  # what was launched before the second one's end was known; nothing is launched after it
    assert third.started is not None
    assert third.state.output == []
    late.step()
    assert len(third.state.output) == 1
    finish(late)
    assert len(first.state.output) == 30


def test_a_request_that_arrives_joins_the_next_step_but_one(late: Engine) -> None:
    ask(late, mode="ar", max_new_tokens=30, ignore_eos=True)
    late.step()
    other = ask(late, mode="ar", max_new_tokens=3, ignore_eos=True)
    late.step()
    assert (other.started is not None, other.state.output) == (True, [])
    late.step()
    assert len(other.state.output) == 1
    finish(late)


def test_a_step_that_cannot_be_launched_ahead_runs_when_it_is_due(
    plain: Engine, late: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = late.runner.launch

    def failing(scheduled: list[ScheduledChunk], after: InFlight | None = None) -> InFlight:
        if after is not None:
            raise MemoryError
        return launch(scheduled)

    monkeypatch.setattr(late.runner, "launch", failing)
    got = [ask(engine, mode="ar", max_new_tokens=9) for engine in (plain, late)]
    for engine in (plain, late):
        finish(engine)
    assert ledger(got[0]) == ledger(got[1])


@pytest.mark.parametrize("fails_at", [1, 2, 5])
def test_a_step_that_raises_runs_again_and_the_guilty_one_fails(
    plain: Engine, late: Engine, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Launched ahead or not: the device raises only when the host waits for it."""
    ledgers = []
    for engine in (plain, late):
        fields = [{"mode": "ar", "max_new_tokens": 12, "prompt_ids": PROMPT[at:]} for at in range(3)]
        sequences = [ask(engine, ignore_eos=True, **each) for each in fields]
        guilty, launch = sequences[1], engine.runner.sampler.launch

        def sample(hidden: Any, plan: Any, *rest: Any, guilty: Sequence = guilty, launch: Any = launch) -> object:
            if any(r.params is guilty.state.params and r.chunk.position >= 15 + fails_at for r in plan.requests):
                raise RuntimeError("shape mismatch")
            return launch(hidden, plan, *rest)

        monkeypatch.setattr(engine.runner.sampler, "launch", sample)
        finish(engine)
        ledgers.append([ledger(sequence) for sequence in sequences])
        check_sums(engine, sequences)
        assert guilty.error is not None
    assert ledgers[0] == ledgers[1]


def test_what_was_launched_after_a_step_that_raised_is_forgotten(
    plain: Engine, late: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device lost the tokens of one step; what it went on with was nonsense."""
    collect, calls = late.runner.collect, 0

    def losing(in_flight: InFlight) -> StepResult:
        nonlocal calls
        calls += 1
        result = collect(in_flight)
        if calls == 4:
            assert isinstance(in_flight.run, Sampling)
            assert in_flight.run.tokens_R is not None
            in_flight.run.tokens_R.zero_()
            raise RuntimeError("lost")
        return result

    monkeypatch.setattr(late.runner, "collect", losing)
    got = [
        [ask(engine, mode="ar", max_new_tokens=9, prompt_ids=PROMPT[at:]) for at in (0, 3)] for engine in (plain, late)
    ]
    for engine in (plain, late):
        finish(engine)
    assert [ledger(s) for s in got[0]] == [ledger(s) for s in got[1]]
    check_sums(late, got[1])


def test_a_request_that_fails_alone_leaves_nothing_behind(late: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next step was launched already when it failed; the fixture looks at its pages."""
    sequence, launch = ask(late, mode="ar", max_new_tokens=12), late.runner.sampler.launch

    def sample(hidden: Any, plan: Any, *rest: Any) -> object:
        if plan.requests[0].chunk.position >= 18:
            raise RuntimeError("shape mismatch")
        return launch(hidden, plan, *rest)

    monkeypatch.setattr(late.runner.sampler, "launch", sample)
    finish(late)
    assert sequence.error is not None
    assert len(sequence.state.output) == 3


def test_a_request_that_starts_again_ignores_what_was_launched_ahead(plain: Engine, late: Engine) -> None:
    """It read pages that are not finite; its old row is still on the device when it has been admitted again."""
    prompt = [3 + (7 * place + place // 5) % 60 for place in range(49)]
    alone = ask(plain, prompt_ids=[*prompt, 7], mode="ar", max_new_tokens=12, ignore_eos=True)
    finish(plain)
    bad = ask(late, prompt_ids=[*prompt, 5], mode="ar", max_new_tokens=40, ignore_eos=True)
    late.step()
    reader = ask(late, prompt_ids=[*prompt, 7], mode="ar", max_new_tokens=12, ignore_eos=True)
    for _ in range(4):
        late.step()
    assert reader.num_shared_tokens
    for number in range(late.model.config.num_layers):
        late.runner.cache.layer(number)[bad.pages[1]] = float("nan")
    finish(late)
    assert bad.error is not None
    assert (reader.error, reader.state.tokens()) == (None, alone.state.tokens())
    assert late.counters.dropped_rows >= 1
