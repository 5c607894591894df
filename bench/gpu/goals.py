"""The goals of the GPU path, and whether the findings meet them. Nothing here needs torch.

They are for the 8B model in bfloat16. A rate that was set for an H200 is scaled by the measured copy rate of the card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trimode.bench.gpu.records import Condition, Findings, Record

MODEL: dict[str, Condition] = {"model": "8B", "scheme": "bf16", "batch_invariant": False, "graphs": True}
H200_COPY = 4.3e12
"""Bytes per second that a large copy moved on H200 cards, read and written bytes counted."""
H200_READ_ROOF = 302.0
"""Forwards per second of the 8B model if an H200 read its weights at the 4.8 TB/s of its data sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One goal beside what was measured."""

    goal: str
    target: float
    got: float | None
    """None if it was not measured."""
    at_most: bool = False
    """True if the target is an upper bound."""
    where: str = ""

    @property
    def met(self) -> bool | None:
        """True if the goal is met, None if nothing was measured."""
        if self.got is None:
            return None
        return self.got <= self.target if self.at_most else self.got >= self.target


def judge(found: Findings) -> list[Judged]:
    """Returns all goals, each at the worst of its conditions."""
    scale = (found.value("copy rate") or H200_COPY) / H200_COPY
    step = _finder(found, "step")
    ar = step(streams=1, tokens=1)
    block = step(streams=1, tokens=32)
    invariant = _ratio(_plain(found, "step", MODEL | {"batch_invariant": True}, streams=1, tokens=1), ar)
    spec = found.find("tokens/s", mode="linear_spec", **MODEL)
    attention = found.find("paged_attention")
    long = [record for record in attention if int(record.conditions["keys"]) >= 32768]
    goals = [
        Judged(goal="AR step, share of the measured read rate", target=0.75, got=_share(ar)),
        Judged(goal="the same, next goal", target=0.80, got=_share(ar)),
        Judged(
            goal="AR forwards per second, 75 % of an H200's 302 scaled by the copy rate",
            target=0.75 * H200_READ_ROOF * scale,
            got=None if ar is None else 1e3 / ar.value,
        ),
        Judged(goal="32-token step / AR step", target=1.15, at_most=True, got=_ratio(block, ar)),
        _worst("host gap in %", 5.0, found.find("host gap"), lambda r: r.value, at_most=True),
        Judged(
            goal="linear_spec at 6.82 accepted, tokens/s at one stream (670 on an H200, scaled)",
            target=670 * scale,
            got=next((r.value for r in spec if r.has(streams=1)), None),
        ),
        _worst("linear_spec, share of streams x accepted / two measured forwards", 0.8, spec, lambda r: r.share),
        _worst("paged_attention at 32k keys, share of its bound", 0.8, long, lambda r: r.share),
        _worst("paged_attention beside SDPA, times as fast", 1.0, attention, lambda r: r.ratio),
        Judged(
            goal="batch invariance, cost of the AR step", target=0.15, at_most=True,
            got=None if invariant is None else invariant - 1,
        ),
    ]  # fmt: skip
    for scheme, target in (("fp8", 1.4), ("w4a16", 2.2)):
        other = _plain(found, "step", MODEL | {"scheme": scheme}, streams=1, tokens=1)
        goals.append(Judged(goal=f"{scheme}, times as fast as the bf16 AR step", target=target, got=_ratio(ar, other)))
    same = found.find("same answers", dtype="float32")
    goals.append(_worst("demo model in float32, answers equal to the CPU's", 1.0, same, lambda r: r.value))
    failed = found.find("tests failed")
    goals.append(_worst("tests with the marker cuda that fail", 0, failed, lambda r: r.value, at_most=True))
    return goals


def _finder(found: Findings, name: str) -> Callable[..., Record | None]:
    return lambda **conditions: _plain(found, name, MODEL, **conditions)


def _plain(found: Findings, name: str, variant: dict[str, Condition], **conditions: Condition) -> Record | None:
    return next(iter(found.find(name, **(variant | conditions))), None)


def _share(record: Record | None) -> float | None:
    return None if record is None else record.share


def _ratio(above: Record | None, below: Record | None) -> float | None:
    return None if above is None or below is None else above.value / below.value


def _worst(
    goal: str,
    target: float,
    records: Sequence[Record],
    value: Callable[[Record], float | None],
    *,
    at_most: bool = False,
) -> Judged:
    """Judges a goal that holds under several conditions by the worst of them."""
    measured = [(number, record) for record in records if (number := value(record)) is not None]
    if not measured:
        return Judged(goal=goal, target=target, got=None, at_most=at_most)
    number, record = (max if at_most else min)(measured, key=lambda pair: pair[0])
    return Judged(goal=goal, target=target, got=number, at_most=at_most, where=_where(record.conditions.items()))


def _where(conditions: Iterable[tuple[str, Condition]]) -> str:
    shown = ("mode", "rows of", "streams", "queries", "keys", "tokens", "dtype", "matrix")
    return ", ".join(f"{name} {value}" for name, value in conditions if name in shown)
