"""Speed and accuracy of each setting at several numbers of requests at a time, as `bench.concurrency` leaves them.

One JSON file holds one sweep over loads. The answers of a request do not depend on the load, so a setting has one
accuracy and one speed per load.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_NAME = "concurrency.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One mode with its block length."""

    name: str
    mode: str
    accuracy: float
    """Percent of the problems."""
    tpf: float
    """Tokens per forward."""
    tokens_per_s: Mapping[int, float]
    """Of all requests together, by requests at a time, in rising order."""
    against_ar: Mapping[int, float]
    """Median of the ratios to `ar` of the same round, by requests at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSweep:
    """All settings on the same problems, on one machine."""

    model: str
    problems: int
    machine: str
    settings: list[Setting]

    def fastest(self, *, text_of_ar: bool = False) -> dict[int, str]:
        """Returns the name of the fastest setting by requests at a time, of all or of those with the text of `ar`."""
        allowed = [setting for setting in self.settings if not (text_of_ar and setting.mode == "dlm")]
        loads = sorted({load for setting in allowed for load in setting.against_ar})
        return {load: max(allowed, key=lambda setting: setting.against_ar.get(load, -math.inf)).name for load in loads}

    @property
    def crossovers(self) -> list[int]:
        """The loads from which on another setting than before is the fastest."""
        found = list(self.fastest().items())
        return [load for (_, before), (load, name) in itertools.pairwise(found) if name != before]

    @property
    def advice(self) -> str:
        """One sentence: which setting to use at which load."""
        return f"{advice(self.fastest())} With the text of ar: {advice(self.fastest(text_of_ar=True))}"

    def write(self, folder: Path) -> Path:
        """Writes the sweep into a folder, where the report finds it. Returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path


def advice(fastest: Mapping[int, str]) -> str:
    """Returns one sentence that says which setting is the fastest at which load.

    Args:
        fastest: setting by number of requests at a time, in rising order.
    """
    parts: list[tuple[int, int, str]] = []
    for number, name in fastest.items():
        if parts and parts[-1][2] == name:
            parts[-1] = (parts[-1][0], number, name)
        else:
            parts.append((number, number, name))
    said = [f"{name} at {low if low == high else f'{low} to {high}'}" for low, high, name in parts]
    return f"The fastest by requests at a time: {', '.join(said)}."


def read_loads(*roots: Path) -> tuple[list[LoadSweep], list[str]]:
    """Returns the sweeps over loads in these folders and in those directly inside, and notes of damaged files."""
    sweeps: list[LoadSweep] = []
    notes: list[str] = []
    paths = [path for root in roots for path in (root / FILE_NAME, *sorted(root.glob(f"*/{FILE_NAME}")))]
    for path in dict.fromkeys(paths):
        try:
            sweeps.append(_sweep(json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            notes.append(f"{path} cannot be read and is left out: {type(error).__name__}: {error}")
    return sweeps, notes


def _sweep(value: Mapping[str, object]) -> LoadSweep:
    settings = value["settings"]
    if not isinstance(settings, list) or not settings:
        raise ValueError("it has no settings")
    return LoadSweep(
        model=str(value["model"]), problems=int(str(value["problems"])), machine=str(value["machine"]),
        settings=[_setting(one) for one in settings],
    )  # fmt: skip


def _setting(value: Mapping[str, object]) -> Setting:
    return Setting(
        name=str(value["name"]), mode=str(value["mode"]),
        accuracy=_finite(value["accuracy"]), tpf=_finite(value["tpf"]),
        tokens_per_s=_by_load(value["tokens_per_s"]), against_ar=_by_load(value["against_ar"]),
    )  # fmt: skip


def _by_load(value: object) -> dict[int, float]:
    if not isinstance(value, dict) or not value:
        raise ValueError("a setting has no loads")
    found = {int(load): _finite(number) for load, number in value.items()}
    if min(found) < 1 or min(found.values()) <= 0:
        raise ValueError("loads and speeds must be above 0")
    return dict(sorted(found.items()))


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"not a finite number: {value!r}")
    return float(value)
