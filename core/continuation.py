"""The state of a request at a boundary of its generation: what another worker needs to go on from there.

A boundary is where tokens were appended to the output: any token in ar, a verify in linear_spec, either in auto, a
finished block in dlm. Random numbers depend on the request and the position alone, so a continued request gives what an
undisturbed one gives. Standard library only: workers make it, routers and files carry it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimode.core.protocol import FORWARD_KINDS, DecodeParams


def request_digest(prompt_ids: Sequence[int], params: DecodeParams) -> str:
    """Returns what names a request by its content: two requests with one digest give the same tokens.

    Args:
        prompt_ids: the whole prompt.
        params: as the request asks for them, with the seed that it names.
    """
    asked = json.dumps(dataclasses.asdict(params), sort_keys=True).encode()
    return hashlib.blake2b(asked + array("q", prompt_ids).tobytes(), digest_size=16).hexdigest()


@dataclass(slots=True, kw_only=True)  # not frozen: made for every part that is streamed, in a third of the time
class Continuation:
    """A request at a boundary, or the part of it that came after an earlier boundary.

    Counts are those of the whole request. Only `token_ids`, `logprobs` and `trace` may be a part.
    """

    digest: str
    """Of the request, see `request_digest`. A continuation of another request is refused."""
    token_ids: Sequence[int]
    """Generated tokens from number `start` on."""
    logprobs: Sequence[float] | None = None
    """One per token; None if the request does not ask for them."""
    forwards: Mapping[str, int]
    """Forwards by kind up to the boundary. Kinds with 0 may be missing."""
    forwards_saved: int = 0
    """Of the prefill forwards, those that did not run, because the prefix cache held their tokens."""
    trace: Sequence[object] | None = None
    """The mode's record of its forwards from entry `trace_start` on; None if the mode keeps none."""
    next_token: int | None = None
    """dlm: the first token of the next block, as the causal pass over the last block sampled it; else None."""
    next_logprob: float = 0.0
    """Log-probability of `next_token`."""
    forced_logprob: float = 0.0
    """dlm: log-probability of an end of thinking in the place of `next_token`."""
    continuations: int = 0
    """How often the request had been continued before."""
    start: int = 0
    """Number of generated tokens before these; 0 = none is missing."""
    trace_start: int = 0
    """Number of entries of the trace before these."""

    @property
    def end(self) -> int:
        """Number of generated tokens at the boundary."""
        return self.start + len(self.token_ids)

    def add(self, later: Continuation) -> Continuation:
        """Returns the request at the boundary of `later`. Raises ValueError as `join` does."""
        return join([self, later])

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict, ready for json. Fields that have their default are left out."""
        values = {name: value for name, default in _DEFAULTS.items() if (value := getattr(self, name)) != default}
        values["forwards"] = {kind: count for kind, count in self.forwards.items() if count}
        return values

    def counts_to_json(self) -> dict[str, object]:
        """Returns the same without the tokens and their log-probabilities, for who sends these beside it."""
        values = {name: value for name, default in _COUNTS.items() if (value := getattr(self, name)) != default}
        values["forwards"] = {kind: count for kind, count in self.forwards.items() if count}
        return values

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Continuation:
        """Returns what `to_json` wrote. Raises ValueError if it is something else."""
        try:
            found = cls(**raw)
            counts = [found.forwards_saved, found.continuations, found.start, found.trace_start]
            counts += found.forwards.values()
            tokens = [*found.token_ids, *(() if found.next_token is None else (found.next_token,))]
            numbers = [*(found.logprobs or ()), found.next_logprob, found.forced_logprob]
            valid = isinstance(found.digest, str) and found.forwards.keys() <= set(FORWARD_KINDS)
            valid &= all(type(number) is int and number >= 0 for number in counts + tokens)
            valid &= all(isinstance(number, int | float) for number in numbers)
            valid &= found.logprobs is None or len(found.logprobs) == len(found.token_ids)
            valid &= found.trace is None or isinstance(found.trace, list)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"no continuation: {error}") from None
        if not valid:
            raise ValueError("no continuation: a field is not of its kind")
        return found


_DEFAULTS: Mapping[str, object] = {item.name: item.default for item in dataclasses.fields(Continuation)}
_COUNTS = {name: default for name, default in _DEFAULTS.items() if name not in ("token_ids", "logprobs", "forwards")}


def join(parts: Iterable[Continuation]) -> Continuation:
    """Returns the whole request from its parts in their order. They may overlap; parts that bring nothing are skipped.

    Raises:
        ValueError: no part, parts of several requests, a gap between them, or tokens that contradict each other.
    """
    first, *others = parts
    last = first
    tokens, logprobs, trace = list(first.token_ids), _list(first.logprobs), _list(first.trace)
    for part in others:
        if part.digest != first.digest:
            raise ValueError("these are parts of several requests")
        at, trace_at = part.start - first.start, part.trace_start - first.trace_start
        if not 0 <= at <= len(tokens) or not 0 <= trace_at <= len(trace):
            raise ValueError(f"tokens are missing before number {part.start}")
        known = tokens[at:]
        if known != list(part.token_ids[: len(known)]):
            if known[: len(part.token_ids)] == list(part.token_ids):
                continue  # it ends before what is known
            raise ValueError(f"two parts have different tokens from number {part.start} on")
        tokens[at:], logprobs[at:], trace[trace_at:] = part.token_ids, part.logprobs or (), part.trace or ()
        last = part
    return dataclasses.replace(
        last,
        token_ids=tokens,
        logprobs=None if first.logprobs is None else logprobs,
        trace=None if first.trace is None else trace,
        start=first.start,
        trace_start=first.trace_start,
    )


def _list(values: Sequence[Any] | None) -> list[Any]:
    return list(values or ())
