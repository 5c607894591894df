"""Logits that are not finite: the request at fault fails, its batch-mates and all later requests get their tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from trimode.core.protocol import Mode
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.runner import InFlight, StepResult
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.model.kv_cache import PAGE_SIZE
from trimode.workers.runtime import Runtime

PREFIX = [3 + (7 * place + place // 5) % 60 for place in range(3 * PAGE_SIZE)]
MODES = list(Mode)


@pytest.fixture
def calm() -> Iterator[Runtime]:
    """An engine of its own: nothing in its cache, and every page free again at the end."""
    runtime = Runtime(micro_settings())
    yield runtime
    assert runtime.engine.allocator.num_free == runtime.engine.allocator.num_pages
    cache = runtime.engine.runner.cache
    assert all(cache.layer(number).isfinite().all() for number in range(runtime.engine.model.config.num_layers))


def fields(mode: str, tail: int, **more: object) -> dict[str, object]:
    """A request whose prompt is the common prefix and one token of its own."""
    return {"prompt_ids": [*PREFIX, tail], "mode": mode, "max_new_tokens": 24, "ignore_eos": True, **more}


def finish(engine: Engine) -> None:
    for _ in range(500):
        if not engine.busy:
            return
        engine.step()
    raise AssertionError("the engine does not come to rest")


def tokens_alone(runtime: Runtime, request: dict[str, object]) -> list[int]:
    """What the request gets from an engine that nothing has disturbed."""
    engine = Engine(runtime.engine.model, 200, 8)
    before, runtime.engine = runtime.engine, engine
    sequence = runtime.submit("alone", request)
    finish(engine)
    runtime.engine = before
    assert sequence.error is None
    return sequence.state.tokens()


def fail_logits(monkeypatch: pytest.MonkeyPatch, engine: Engine, bad: Sequence) -> None:
    """From now on the logits of one request are not finite; its KV is."""
    collect = engine.runner.collect

    def broken(in_flight: InFlight) -> StepResult:
        result = collect(in_flight)
        for item, sampled in result.samples:
            if item.sequence is bad:
                sampled.confidences = [float("nan")] * len(sampled.confidences)
        return result

    monkeypatch.setattr(engine.runner, "collect", broken)


def poison(engine: Engine, pages: list[int]) -> None:
    for number in range(engine.model.config.num_layers):
        engine.runner.cache.layer(number)[pages] = float("nan")


def started(runtime: Runtime, request: dict[str, object], steps: int = 3) -> Sequence:
    sequence = runtime.submit("bad", request)
    for _ in range(steps):
        runtime.engine.step()
    return sequence


def check_failed(bad: Sequence) -> None:
    assert bad.error is not None
    assert bad.error.status == 500
    assert "not finite" in bad.error.message


@pytest.mark.parametrize("mode", MODES)
def test_sharers_that_run_keep_their_tokens(calm: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    bad = started(calm, fields("ar", 5))
    sharers = [calm.submit(str(tail), fields(mode, tail)) for tail in (5, 6, 7)]
    calm.engine.step()
    assert all(sharer.pages[:3] == bad.pages[:3] for sharer in sharers)
    fail_logits(monkeypatch, calm.engine, bad)
    finish(calm.engine)
    check_failed(bad)
    assert [s.state.tokens() for s in sharers] == [tokens_alone(calm, fields(mode, tail)) for tail in (5, 6, 7)]
    assert all(sharer.error is None for sharer in sharers)


@pytest.mark.parametrize("mode", MODES)
def test_a_sharer_that_joins_in_the_step_of_the_failure_keeps_its_tokens(
    calm: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    bad = started(calm, fields("ar", 5))
    fail_logits(monkeypatch, calm.engine, bad)
    sharer = calm.submit("sharer", fields(mode, 6))
    calm.engine.step()
    check_failed(bad)
    assert sharer.num_shared_tokens == len(PREFIX)  # it was offered at the moment of the failure
    later = calm.submit("later", fields(mode, 7))
    finish(calm.engine)
    assert later.num_shared_tokens == 0
    assert sharer.state.tokens() == tokens_alone(calm, fields(mode, 6))
    assert later.state.tokens() == tokens_alone(calm, fields(mode, 7))


@pytest.mark.parametrize("mode", MODES)
def test_later_requests_compute_the_prefix_again(calm: Runtime, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    bad = started(calm, fields("ar", 5))
    sharer = calm.submit("sharer", fields(mode, 6))
    calm.engine.step()
    fail_logits(monkeypatch, calm.engine, bad)
    calm.engine.step()
    first = calm.submit("first", fields(mode, 7))  # the sharer still runs
    calm.engine.step()
    assert first.num_shared_tokens == 0
    finish(calm.engine)
    last = calm.submit("last", fields(mode, 8))
    finish(calm.engine)
    for sequence, tail in ((sharer, 6), (first, 7), (last, 8)):
        assert sequence.error is None
        assert sequence.state.tokens() == tokens_alone(calm, fields(mode, tail))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page", [0, 1, 2])
def test_pages_that_are_not_finite_reach_nobody(calm: Runtime, mode: str, page: int) -> None:
    """The request that computed the page fails. Those that read it start again."""
    bad = started(calm, fields("ar", 5))
    sharers = [calm.submit(str(tail), fields(mode, tail)) for tail in (6, 7)]
    for _ in range(3):
        calm.engine.step()
    poison(calm.engine, bad.pages[page : page + 1])
    other = calm.submit("other", {**fields(mode, 5), "prompt_ids": PREFIX[::-1]})
    finish(calm.engine)
    check_failed(bad)
    assert [s.state.tokens() for s in sharers] == [tokens_alone(calm, fields(mode, tail)) for tail in (6, 7)]
    assert all(sharer.error is None for sharer in sharers)
    assert other.state.tokens() == tokens_alone(calm, {**fields(mode, 5), "prompt_ids": PREFIX[::-1]})


@pytest.mark.parametrize("mode", MODES)
def test_pages_kept_for_later_that_are_not_finite_reach_nobody(calm: Runtime, mode: str) -> None:
    gone = started(calm, fields("ar", 5, max_new_tokens=2), steps=1)
    pages = gone.pages[:3]
    finish(calm.engine)
    poison(calm.engine, pages)
    later = calm.submit("later", fields(mode, 6))
    calm.engine.step()
    finish(calm.engine)
    assert later.error is None
    assert later.state.tokens() == tokens_alone(calm, fields(mode, 6))


def test_a_request_that_starts_again_fails_if_it_is_not_finite_by_itself(
    calm: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = started(calm, fields("ar", 5, max_new_tokens=2), steps=1)
    pages = gone.pages[:3]
    finish(calm.engine)
    poison(calm.engine, pages)
    bad = calm.submit("bad", fields("ar", 6))
    fail_logits(monkeypatch, calm.engine, bad)
    finish(calm.engine)
    check_failed(bad)


def test_what_a_cancelled_prompt_wrote_reaches_nobody(calm: Runtime) -> None:
    """No logit of the prompt was looked at before the request left, so its pages may hold anything."""
    engine = calm.engine = Engine(calm.engine.model, calm.engine.allocator.num_pages, 8, prefill_slice=8)
    gone = started(calm, fields("ar", 5), steps=2)
    poison(engine, gone.pages)
    engine.cancel(gone)
    engine.step()
    later = calm.submit("later", fields("dlm", 6))
    finish(engine)
    assert later.error is None
    assert later.state.tokens() == tokens_alone(calm, fields("dlm", 6))
