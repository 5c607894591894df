"""The scheduler by hand-made samples, without a model: admission, limits, cancelling, faults, pages."""

from __future__ import annotations

from trimode.core.errors import GenerationError
from trimode.core.protocol import Top
from trimode.tests.fakes.forward import new_state, sampled
from trimode.workers.decode.chunk import Chunk, Sampled
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.state import DecodeState
from trimode.workers.engine.pages import PageAllocator
from trimode.workers.engine.scheduler import ScheduledChunk, Scheduler, Sequence

PAGE = 4
CONTEXT = DecodeContext(mask_token_id=100, eos_token_ids=frozenset({11}), prefill_slice=6)


def scheduler(num_pages: int = 100, max_num_seqs: int = 8, **limits: int) -> Scheduler:
    return Scheduler(PageAllocator(num_pages, PAGE), max_num_seqs, **limits)


def ask(queue: Scheduler, name: str, prompt: list[int], max_new_tokens: int = 3, mode: str = "ar") -> Sequence:
    """Queues a request. In ar it needs pages for prompt + max_new_tokens + 2 tokens."""
    sequence = Sequence(name, new_state(mode, prompt, CONTEXT, max_new_tokens=max_new_tokens))
    queue.add(sequence)
    return sequence


def step(queue: Scheduler, token: int = 5) -> list[Sequence]:
    """Runs one step in which every wanted row gives `token`; returns the requests that ended."""
    for item in queue.schedule():
        queue.advance(item.sequence, item.chunk, sampled(*[token] * len(item.chunk.rows)))
    return queue.release_ended()


def names(items: list[ScheduledChunk]) -> list[str]:
    return [item.sequence.request_id for item in items]


def test_a_request_runs_from_the_queue_to_its_release() -> None:
    queue = scheduler()
    only = ask(queue, "only", [1, 2, 3])
    assert (list(queue.waiting), only.started) == ([only], None)
    ended = [step(queue) for _ in range(3)]
    assert ended == [[], [], [only]]
    assert (only.state.output, only.error, only.pages) == ([5, 5, 5], None, [])
    assert only.arrived <= (only.started or 0) <= (only.first_token or 0) <= (only.ended or 0)
    assert (queue.running, queue.allocator.num_free) == ([], 100)


def test_a_step_without_requests_schedules_nothing() -> None:
    queue = scheduler()
    assert (queue.schedule(), queue.release_ended()) == ([], [])


def test_slots_are_given_in_order_of_arrival() -> None:
    queue = scheduler(max_num_seqs=2)
    for name in "abc":
        ask(queue, name, [ord(name)])
    assert names(queue.schedule()) == ["a", "b"]
    queue.max_num_seqs = 3
    assert names(queue.schedule()) == ["a", "b", "c"]


def test_a_request_waits_until_its_largest_need_of_pages_fits() -> None:
    queue = scheduler(num_pages=4)
    first = ask(queue, "first", [1, 2, 3], max_new_tokens=7)
    ask(queue, "large", [4, 5, 6], max_new_tokens=7)
    ask(queue, "small", [7], max_new_tokens=1)
    assert names(queue.schedule()) == ["first"]  # one page is left: enough for the small one, which must not overtake
    assert queue.allocator.num_free == 1
    queue.end(first)
    queue.release_ended()
    assert names(queue.schedule()) == ["large", "small"]
    assert queue.allocator.num_free == 0


def test_prompts_share_the_limit_of_a_step_and_decoding_goes_on() -> None:
    queue = scheduler(max_step_prefill=12)
    ask(queue, "decoding", [9])
    step(queue)
    for name in "abc":
        ask(queue, name, list(range(ord(name), ord(name) + 8)))
    first = queue.schedule()
    assert names(first) == ["decoding", "a", "b"]
    assert [len(item.chunk.token_ids) for item in first] == [1, 6, 6]


def test_one_prompt_above_the_limit_runs_alone() -> None:
    queue = scheduler(max_step_prefill=2)
    ask(queue, "a", [1, 2, 3])
    ask(queue, "b", [4, 5, 6])
    assert names(queue.schedule()) == ["a"]


def test_the_prefix_of_a_computed_prompt_is_not_run_again() -> None:
    queue = scheduler()
    first = ask(queue, "first", [1, 2, 3, 4, 5])
    step(queue)
    pages = list(first.pages)
    second = ask(queue, "second", [1, 2, 3, 4, 6, 7])
    chunk = next(item.chunk for item in queue.schedule() if item.sequence is second)
    assert (chunk.position, list(chunk.token_ids)) == (4, [6, 7])
    assert (second.num_shared_tokens, second.pages[0]) == (4, pages[0])


def test_a_prompt_in_slices_is_offered_when_all_of_it_is_computed() -> None:
    queue = scheduler()
    ask(queue, "first", list(range(20, 28)))
    step(queue)
    assert queue.allocator.num_shared == 0
    step(queue)
    assert queue.allocator.num_shared == 2


def test_cancelled_requests_end_at_the_next_step_wherever_they_are() -> None:
    queue = scheduler(max_num_seqs=1)
    running, waiting = ask(queue, "running", [1]), ask(queue, "waiting", [2])
    last = ask(queue, "last", [3])
    step(queue)
    queue.cancel(running)
    queue.cancel(waiting)
    assert names(queue.schedule()) == ["last"]
    assert queue.release_ended() == [running, waiting]
    assert [s.error.status for s in (running, waiting) if s.error is not None] == [499, 499]
    assert (queue.running, last.error) == ([last], None)


def test_pages_of_a_failed_request_are_offered_no_more() -> None:
    queue = scheduler()
    bad = ask(queue, "bad", list(range(1, 6)))
    step(queue)
    assert queue.allocator.num_shared == 1
    queue.end(bad, GenerationError("broken", status=500))
    queue.release_ended()
    assert (queue.allocator.num_shared, queue.allocator.num_free) == (0, 100)


def test_a_request_keeps_its_pages_until_they_are_released() -> None:
    queue = scheduler()
    only = ask(queue, "only", [1])
    queue.schedule()
    queue.end(only)
    assert only.pages
    assert only.ended is None
    assert queue.release_ended() == [only]
    assert queue.release_ended() == []


class Faulty(DecodeState):
    """Raises instead of giving its chunk number `fault`, and instead of taking in the result of its chunk `taken`."""

    asked = 0
    fault = 0
    taken = 0

    @staticmethod
    def nfe(forwards: object) -> int:
        raise NotImplementedError

    def _begin(self, token: int, logprob: float, top: Top = ()) -> None:  # noqa: ARG002
        self._emit([token], [logprob])

    def _next_chunk(self) -> Chunk:
        self.asked += 1
        if self.asked == self.fault:
            raise RuntimeError("broken on purpose")
        return Chunk("decode", self.output[-1:], self.cached, True, True, (0,), "decode")

    def _advance(self, chunk: Chunk, sampled: Sampled) -> None:
        if self.asked == self.taken:
            raise KeyError("broken on purpose")
        self.cached += len(chunk.token_ids)
        self._emit(sampled.tokens, sampled.logprobs)


def faulty(**fields: int) -> Faulty:
    state = new_state("ar", [1], CONTEXT, max_new_tokens=9)
    broken = Faulty([1], state.params, CONTEXT)
    for name, value in fields.items():
        setattr(broken, name, value)
    return broken


def test_an_exception_while_a_chunk_is_made_ends_that_request_only() -> None:
    queue = scheduler()
    bad = Sequence("bad", faulty(fault=2))
    queue.add(bad)
    good = ask(queue, "good", [2], max_new_tokens=9)
    assert [step(queue), step(queue)] == [[], []]
    assert names(queue.schedule()) == ["good"]
    assert queue.release_ended() == [bad]
    assert bad.error is not None
    assert (bad.error.status, bad.error.message) == (500, "generation failed: RuntimeError in the decoder")
    assert queue.running == [good]


def test_an_exception_while_a_result_is_taken_ends_that_request_only() -> None:
    queue = scheduler()
    bad = Sequence("bad", faulty(taken=1))
    queue.add(bad)
    good = ask(queue, "good", [2], max_new_tokens=9)
    assert [step(queue), step(queue)] == [[], [bad]]
    assert bad.error is not None
    assert bad.error.message == "generation failed: KeyError in the decoder"
    assert (len(good.state.output), good.error) == (2, None)
