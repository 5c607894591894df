"""Gates such as `linear_spec >= ar - 1.0`: parsed once, judged on a paired difference with its interval."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from trimode.core.errors import ConfigError
from trimode.pipeline.analysis.statistics import Interval

_NAME = r"[A-Za-z_/.][\w+./-]*"
"""A mode, or a run folder."""
_GATE = re.compile(
    # the right name is as short as possible, so that `ar-2` is ar minus two points
    rf"\s*(?P<left>{_NAME})\s*>=\s*(?P<right>{_NAME}?)\s*(?:(?P<sign>[+-])\s*(?P<points>\d+(?:\.\d+)?)\s*)?"
)


class Verdict(StrEnum):
    """What the data say about a gate."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    """The whole 95 % interval satisfies the gate."""
    REGRESS = "REGRESS"
    """The whole 95 % interval violates the gate."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """A part of the interval satisfies the gate and a part violates it; more problems are needed."""


EXIT_STATUS = {Verdict.PASS: 0, Verdict.REGRESS: 1, Verdict.INCONCLUSIVE: 3}
"""Exit status of each verdict, for CI. Status 2 is left to usage errors."""


@dataclass(frozen=True, slots=True)
class Gate:
    """accuracy(left) >= accuracy(right) + margin, in percent points."""

    left: str
    right: str
    margin: float
    """Negative if `left` may be worse."""


def parse_gate(text: str) -> Gate:
    """Returns the gate in `text`. Raises ConfigError that names the valid form."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise ConfigError(f"a gate reads 'NAME >= NAME - POINTS', e.g. 'linear_spec >= ar - 1.0'; got {text!r}")
    margin = float(match["points"] or 0) * (-1 if match["sign"] == "-" else 1)
    return Gate(match["left"], match["right"], margin)


def judge(difference: Interval, margin: float) -> Verdict:
    """Returns the verdict on `left - right >= margin`, from the 95 % interval of left minus right in percent points."""
    if difference.low >= margin:
        return Verdict.PASS
    return Verdict.REGRESS if difference.high < margin else Verdict.INCONCLUSIVE


def overall(pooled: Verdict, parts: list[Verdict]) -> Verdict:
    """Returns REGRESS if the pool or any benchmark regresses, else the verdict of the pool."""
    return Verdict.REGRESS if Verdict.REGRESS in parts else pooled
