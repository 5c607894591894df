"""What the sampler has to know about a step, as flat arrays that reach the device together with the batch.

R = wanted rows, S = rows that are drawn at random, C = chunks that ask for a selection.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimode.core.protocol import DecodeParams
from trimode.kernels.packing import Array
from trimode.workers.decode.chunk import Chunk, Commit, Confidence, Verify
from trimode.workers.sampling.randomness import uniform

ROWS_PER_PASS = 256
"""Most rows whose logits exist at once (134 MB in float32 at 131,072 tokens); more rows take several passes."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One chunk and its request's parameters."""

    chunk: Chunk
    params: DecodeParams


@dataclass(frozen=True, slots=True)
class Pass:
    """The part of a plan that concerns some of the rows. Each slice is one of arrays that belong together."""

    rows: slice
    penalties: slice
    sampled: slice
    tempered: slice
    forced: slice
    drafts: slice
    tops: slice
    filtered: bool
    """True if a row has top-k, top-p or min-p."""
    kept: tuple[tuple[int, int], ...]
    """(place among the pass's sampled rows, index of its request) of every distribution to return."""


@dataclass(slots=True)
class SamplingPlan:
    """A step's sampling. `arrays` go to the device, the rest says on the host what is to be done with them."""

    requests: Sequence[SampleRequest]
    num_rows: int = 0
    """R."""
    arrays: dict[str, Array] = field(default_factory=dict)
    """Those that are not empty, by the names of `_ARRAYS` and `selections`."""
    passes: list[Pass] = field(default_factory=list)
    num_tops: int = 0
    """Rows whose most probable tokens are wanted."""
    proposals: list[object] = field(default_factory=list)
    """Handles of the distributions that the drafts were drawn from, in the order of `draft_at`."""
    width: int = 0
    """Rows of the longest chunk that asks for a selection; 0 if none does."""
    commits: bool = False
    """True if a chunk asks for a Commit."""
    verifies: bool = False
    """True if a chunk asks for a Verify."""

    @property
    def reads_inputs(self) -> bool:
        """True if the sampler needs the token that stands at each wanted row."""
        return self.verifies


_ARRAYS = {
    "penalty_row": "q",  # row within its pass
    "penalty_token": "q",
    "bias": "f",  # added first
    "penalty": "f",  # then divides what is positive and multiplies what is not
    "taken": "f",  # taken off last
    "sampled_row": "q",  # row within its pass
    "temperature": "f",
    "top_k": "q",  # 0 = all
    "top_p": "f",
    "min_p": "f",
    "number": "d",
    "tempered_place": "q",  # among the sampled rows of its pass
    "tempered_row": "q",  # row within its pass
    "forced_row": "q",  # row within its pass
    "forced_token": "q",
    "draft_place": "q",  # among the sampled rows of its pass
    "draft_at": "q",  # wanted row, of all passes, where the draft stands
    "chance": "d",
    "top_row": "q",  # row within its pass
}
"""Name and type code of each array of rows."""


class _Rows:
    """Collects the arrays of rows, and which row each entry belongs to."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {name: array(code) for name, code in _ARRAYS.items()}
        self.penalised, self.sampled, self.tempered, self.forced, self.drafted = (array("q") for _ in range(5))
        self.topped = array("q")
        """The wanted row of every entry of the arrays that belong together."""
        self.filtered = array("q")
        self.kept: list[tuple[int, int]] = []
        """(place among all sampled rows, index of its request)."""
        self.proposals: list[object] = []

    def add(self, number: int, request: SampleRequest, start: int) -> None:
        """Adds the rows of one request, the first of which is row `start`."""
        chunk, params, put = request.chunk, request.params, self.arrays
        first, end = start + len(chunk.targets), start + len(chunk.rows)
        rows = range(first, end)  # without those that have a target
        scored = [*chunk.targets, *([] if chunk.forced_token is None else [chunk.forced_token] * len(rows))]
        self.forced.extend(range(start, start + len(scored)))
        put["forced_row"].extend([row % ROWS_PER_PASS for row in range(start, start + len(scored))])
        put["forced_token"].extend(scored)
        if chunk.history is not None and params.changes_logits:
            self._penalise(request, rows)
        if params.temperature > 0 and rows:
            self._sample(number, request, rows)
        if chunk.num_top:
            self.topped.extend(range(start, end))
            put["top_row"].extend([row % ROWS_PER_PASS for row in range(start, end)])

    def _penalise(self, request: SampleRequest, rows: range) -> None:
        """A verified row has the drafts before it as past."""
        chunk, params, put = request.chunk, request.params, self.arrays
        history = chunk.history or ()
        seen = set(history) if params.repetition_penalty != 1.0 else set()
        counts = Counter(history[chunk.num_prompt_history :])
        if not (params.presence_penalty or params.frequency_penalty):
            counts.clear()
        bias = dict(params.logit_bias)
        for row, token_at in zip(rows, chunk.rows[len(chunk.targets) :], strict=True):
            if isinstance(chunk.selection, Verify) and token_at and params.sees_past:
                draft = chunk.token_ids[token_at]
                if params.repetition_penalty != 1.0:
                    seen.add(draft)
                if params.presence_penalty or params.frequency_penalty:
                    counts[draft] += 1
            tokens = sorted({*seen, *counts, *bias})
            self.penalised.extend([row] * len(tokens))
            put["penalty_row"].extend([row % ROWS_PER_PASS] * len(tokens))
            put["penalty_token"].extend(tokens)
            put["bias"].extend([bias.get(token, 0.0) for token in tokens])
            put["penalty"].extend([params.repetition_penalty if token in seen else 1.0 for token in tokens])
            put["taken"].extend([_taken(counts[token], params) for token in tokens])

    def _sample(self, number: int, request: SampleRequest, rows: range) -> None:
        chunk, params, put = request.chunk, request.params, self.arrays
        offset = chunk.position + chunk.sample_offset
        positions = [offset + row for row in chunk.rows[len(chunk.targets) :]]
        put["sampled_row"].extend([row % ROWS_PER_PASS for row in rows])
        put["temperature"].extend([params.temperature] * len(rows))
        put["top_k"].extend([max(params.top_k, 0)] * len(rows))
        put["top_p"].extend([params.top_p] * len(rows))
        put["min_p"].extend([params.min_p] * len(rows))
        put["number"].extend([uniform(params.seed, position, chunk.purpose) for position in positions])
        if params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0:
            self.filtered.extend(rows)
        if chunk.keep_distribution:
            self.kept += [(place, number) for place in range(len(self.sampled), len(self.sampled) + len(rows))]
        self.sampled.extend(rows)
        if chunk.confidence is Confidence.TEMPERED:
            self.tempered.extend(rows)
            put["tempered_place"].extend([self._place(row) for row in rows])
            put["tempered_row"].extend([row % ROWS_PER_PASS for row in rows])
        rule = chunk.selection
        if isinstance(rule, Verify) and rule.proposals is not None:
            drafted = rows[: len(rule.proposals)]
            self.drafted.extend(drafted)
            put["draft_place"].extend([self._place(row) for row in drafted])
            put["draft_at"].extend([row + 1 for row in drafted])
            put["chance"].extend([uniform(params.seed, position, "accept") for position in positions[: len(drafted)]])
            self.proposals += rule.proposals[: len(drafted)]

    def _place(self, row: int) -> int:
        """Returns where a sampled row stands among the sampled rows of its pass."""
        return bisect_left(self.sampled, row) - bisect_left(self.sampled, row - row % ROWS_PER_PASS)

    def passes(self, num_rows: int) -> list[Pass]:
        """Returns the passes over `num_rows` rows."""
        result = []
        for start in range(0, num_rows, ROWS_PER_PASS):
            end = min(start + ROWS_PER_PASS, num_rows)

            def part(rows: array[int], start: int = start, end: int = end) -> slice:
                return slice(bisect_left(rows, start), bisect_left(rows, end))

            sampled, filtered = part(self.sampled), part(self.filtered)
            kept = [(p - sampled.start, n) for p, n in self.kept if sampled.start <= p < sampled.stop]
            result.append(
                Pass(
                    rows=slice(start, end),
                    penalties=part(self.penalised),
                    sampled=sampled,
                    tempered=part(self.tempered),
                    forced=part(self.forced),
                    drafts=part(self.drafted),
                    tops=part(self.topped),
                    filtered=filtered.start < filtered.stop,
                    kept=tuple(kept),
                )
            )
        return result


def _taken(count: int, params: DecodeParams) -> float:
    """Returns what presence and frequency take off the logit of a token that was generated `count` times."""
    return params.frequency_penalty * count + (params.presence_penalty if count else 0.0)


_NOTHING = slice(0, 0)


def _greedy_passes(num_rows: int) -> list[Pass]:
    """Returns the passes over rows that have nothing in any array."""
    starts = range(0, num_rows, ROWS_PER_PASS)
    ends = [min(start + ROWS_PER_PASS, num_rows) for start in starts]
    return [
        Pass(slice(start, end), _NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, filtered=False, kept=())
        for start, end in zip(starts, ends, strict=True)
    ]


def _has_numbers(request: SampleRequest) -> bool:
    """Returns True if the request has anything in the arrays of rows."""
    chunk = request.chunk
    rated = chunk.forced_token is not None or bool(chunk.targets) or chunk.num_top > 0
    return request.params.temperature > 0 or chunk.history is not None or rated


def selections(chunks: Sequence[Chunk], width: int) -> dict[str, Array]:
    """Returns what the chunks want to be decided; C counts the chunks that want something.

    Args:
        chunks: in the order of their rows.
        width: at least the rows of every chunk that wants something.

    Returns:
        first_C and count_C (int64): the first row and the number of rows. threshold_C (float32) and num_best_C (int64):
        of a Commit. is_verify_C (int32): 1 for a Verify, 0 for a Commit. place_R (int64): 1 + c * width + index within
        chunk c; 0 for rows of which nothing is to be decided.
    """
    first, count, best, place = (array("q") for _ in range(4))
    threshold, is_verify = array("f"), array("i")
    start = 0
    for chunk in chunks:
        rule, num_rows = chunk.selection, len(chunk.rows)
        if rule is None:
            place.extend([0] * num_rows)
        elif num_rows:
            place.extend(range(1 + len(first) * width, 1 + len(first) * width + num_rows))
            first.append(start)
            count.append(num_rows)
            threshold.append(rule.threshold if isinstance(rule, Commit) else 0.0)
            best.append(rule.num_best if isinstance(rule, Commit) else 1)
            is_verify.append(isinstance(rule, Verify))
        start += num_rows
    return {
        "first_C": first, "count_C": count, "num_best_C": best, "place_R": place, "threshold_C": threshold,
        "is_verify_C": is_verify,
    }  # fmt: skip


def plan_sampling(requests: Sequence[SampleRequest]) -> SamplingPlan:
    """Returns the plan of the given requests, in the order of their rows."""
    plan = SamplingPlan(requests, sum([len(request.chunk.rows) for request in requests]))
    if any(_has_numbers(request) for request in requests):
        rows, start = _Rows(), 0
        for number, request in enumerate(requests):
            rows.add(number, request, start)
            start += len(request.chunk.rows)
        plan.arrays = {name: data for name, data in rows.arrays.items() if data}
        plan.proposals = rows.proposals
        plan.passes = rows.passes(plan.num_rows)
        plan.num_tops = len(rows.topped)
    else:
        plan.passes = _greedy_passes(plan.num_rows)
    chosen = [r.chunk for r in requests if r.chunk.selection is not None and r.chunk.rows]
    if chosen:
        plan.width = max(len(chunk.rows) for chunk in chosen)
        plan.arrays |= selections([request.chunk for request in requests], plan.width)
        plan.verifies = any(isinstance(chunk.selection, Verify) for chunk in chosen)
        plan.commits = any(isinstance(chunk.selection, Commit) for chunk in chosen)
    return plan
