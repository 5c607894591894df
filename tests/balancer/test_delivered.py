"""The client of a stream gets every token and character once, whatever becomes of the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from trimode.balancer.delivered import PARTS_EVERY_S, Delivered
from trimode.balancer.router import Router
from trimode.balancer.work import Reply, WorkerSlot
from trimode.core.continuation import Continuation
from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import GenerationError, WorkerError
from trimode.core.protocol import Generation
from trimode.tests.fakes.worker import PlainWorker, generation

TEXT = ["The ", "", "answer", " is", " 42", ".", "", "!"]
TOKENS = list(range(10, 18))


class ScriptedWorker(PlainWorker):
    """Gives TEXT token by token, from the continuation on if there is one; dies before the token of number `dies_at`.

    A boundary comes with every `every`-th token; 0 = never.
    """

    def __init__(self, dies_at: int | None, *, every: int = 1, tokens: list[int] = TOKENS) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.every = every
        self.tokens = tokens

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
        self.fields.append(fields)
        begun = fields.get("continuation")
        start, traced = 0, 0
        if begun is not None:
            found = Continuation.from_json(begun)
            assert found.start == found.trace_start == 0
            assert list(found.token_ids) == TOKENS[: found.end]
            assert found.logprobs == [-0.5] * found.end
            assert found.trace == list(range(found.end))
            assert found.forwards == {"decode": found.end}
            start, traced = found.end, len(found.trace or ())
        for number in range(start, len(TEXT)):
            await asyncio.sleep(0)
            if number == self.dies_at:
                raise WorkerError("it died")
            boundary = None
            if self.every and number % self.every == 0 and number < len(TEXT) - 1:
                part = Continuation(
                    digest="d",
                    token_ids=[],
                    forwards={"decode": number + 1},
                    trace=list(range(traced, number + 1)),
                    start=number,
                    trace_start=traced,
                )
                boundary = {k: v for k, v in part.to_json().items() if k != "token_ids"}
                traced = number + 1
            if on_delta is not None:
                shown = [{"block": number // 2, "pass": number % 2}]
                token = self.tokens[number]
                on_delta(Delta(token_ids=[token], logprobs=[-0.5], text=TEXT[number], passes=shown, boundary=boundary))
        return generation(token_ids=self.tokens, text="".join(TEXT))


async def stream(*workers: ScriptedWorker) -> tuple[list[Delta], Reply]:
    """Runs one request; a worker that dies is replaced by the next one."""
    later = list(workers[1:])

    def on_death(slot: WorkerSlot, _cause: str) -> None:
        slot.worker = later.pop(0)

    router = Router([WorkerSlot(0, worker=workers[0])], in_flight_limit=4, max_queue=8, on_death=on_death)
    found: list[Delta] = []
    return found, await router.submit("r", {"request_id": "r"}, 0, found.append)


async def ask(*workers: ScriptedWorker, journal: bool = False) -> Reply:
    """The same for an answer that is wanted as a whole."""
    later = list(workers[1:])

    def on_death(slot: WorkerSlot, _cause: str) -> None:
        slot.worker = later.pop(0)

    slots = [WorkerSlot(0, worker=workers[0])]
    router = Router(slots, in_flight_limit=4, max_queue=8, on_death=on_death, journal=journal)
    return await router.submit("r", {"request_id": "r"}, 0)


def check(found: list[Delta]) -> None:
    assert "".join(delta.text for delta in found) == "".join(TEXT)
    assert [token for delta in found for token in delta.token_ids] == TOKENS
    assert [value for delta in found for value in delta.logprobs or ()] == [-0.5] * 8
    places = [(one["block"], one["pass"]) for delta in found for one in delta.passes]
    assert places == [(number // 2, number % 2) for number in range(8)]


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("dies_at", range(8))
def test_a_death_costs_and_repeats_nothing(dies_at: int, every: int) -> None:
    second = ScriptedWorker(None, every=every)
    found, _ = asyncio.run(stream(ScriptedWorker(dies_at, every=every), second))
    check(found)
    begun = second.fields[0].get("continuation")
    last = max((n for n in range(dies_at) if every and n % every == 0), default=None)
    assert (begun is None) == (last is None)
    if begun is not None and last is not None:
        assert len(begun["token_ids"]) == last + 1


@pytest.mark.parametrize("deaths", [(2, 5), (5, 6), (5, 5), (0, 0)])
def test_two_deaths(deaths: tuple[int, int]) -> None:
    found, _ = asyncio.run(stream(*(ScriptedWorker(at, every=2) for at in deaths), ScriptedWorker(None, every=2)))
    check(found)


@pytest.mark.parametrize("every", [0, 1, 3])
@pytest.mark.parametrize("dies_at", range(8))
def test_a_whole_answer_goes_on_from_the_last_boundary_as_well(dies_at: int, every: int) -> None:
    second = ScriptedWorker(None, every=every)
    reply = asyncio.run(ask(ScriptedWorker(dies_at, every=every), second))
    assert reply.generation.token_ids == TOKENS
    begun = second.fields[0].get("continuation")
    last = max((n for n in range(dies_at) if every and n % every == 0), default=None)
    assert (None if begun is None else len(begun["token_ids"])) == (None if last is None else last + 1)
    assert second.fields[0]["parts_every_s"] == PARTS_EVERY_S


@pytest.mark.parametrize("deaths", [(2, 5), (5, 6), (5, 5), (0, 0)])
def test_two_deaths_under_a_whole_answer(deaths: tuple[int, int]) -> None:
    workers = [*(ScriptedWorker(at, every=2) for at in deaths), ScriptedWorker(None, every=2)]
    assert asyncio.run(ask(*workers)).generation.token_ids == TOKENS


def test_a_whole_answer_that_begins_anew_may_be_another_one() -> None:
    other = ScriptedWorker(None, every=0, tokens=[*TOKENS[:2], 99, *TOKENS[3:]])
    assert asyncio.run(ask(ScriptedWorker(4, every=0), other)).generation.token_ids == other.tokens


def test_with_a_journal_the_workers_know_where_a_whole_answer_goes_on() -> None:
    second = ScriptedWorker(None)
    asyncio.run(ask(ScriptedWorker(4), second, journal=True))
    assert second.fields[0].keys() == {"request_id"}


def test_the_time_of_the_first_token_is_that_of_the_first_worker() -> None:
    _, reply = asyncio.run(stream(ScriptedWorker(4), ScriptedWorker(None)))
    assert 0 <= reply.waited_s + reply.generation.cost.first_token_s < reply.waited_s


def test_another_answer_ends_the_request() -> None:
    other = ScriptedWorker(None, every=0, tokens=[*TOKENS[:2], 99, *TOKENS[3:]])

    async def test() -> None:
        with pytest.raises(GenerationError, match="did not go on with the answer: it has other tokens from number 2"):
            await stream(ScriptedWorker(4, every=0), other)
        await asyncio.sleep(0)
        assert other.cancelled == ["r"]

    asyncio.run(test())


def test_without_a_death_parts_pass_as_they_are() -> None:
    found: list[Delta] = []
    delivered = Delivered(found.append)
    delta = Delta(token_ids=[1], text="a")
    delivered.take(delta)
    assert found[0] is delta
    assert delivered.go_on() is None


def test_alternatives_are_cut_with_their_tokens() -> None:
    found: list[Delta] = []
    delivered = Delivered(found.append)
    delivered.take(Delta(token_ids=[1], logprobs=[-0.1], tops=[[(1, -0.1)]], text="a"))
    assert delivered.go_on() is None  # alternatives come without a boundary, so another worker begins anew
    delivered.take(Delta(token_ids=[1, 2], logprobs=[-0.1, -0.2], tops=[[(1, -0.1)], [(2, -0.2)]], text="ab"))
    assert [(part.token_ids, part.tops, part.text) for part in found] == [
        ([1], [[(1, -0.1)]], "a"),
        ([2], [[(2, -0.2)]], "b"),
    ]
