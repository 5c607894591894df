"""The golden cases of tests/data/trimode_micro as request fields and expected results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MICRO = Path(__file__).parents[1] / "data" / "trimode_micro"
PASSED_ON = ("max_new_tokens", "block_length", "threshold", "max_thinking_tokens", "end_think_token_id")


@dataclass(frozen=True)
class Case:
    """One golden decode."""

    name: str
    fields: dict[str, object]
    tokens: list[int]
    nfe: int
    trace: list[object] | None


def load_cases() -> list[Case]:
    """All golden cases; the reference overshoots max_new_tokens in some, we must equal its first max_new_tokens."""
    cases = []
    for entry in json.loads((MICRO / "cases.json").read_text()):
        for name, value in entry.items():
            if not isinstance(value, dict):
                continue
            mode = next(mode for mode in ("linear_spec", "dlm", "ar") if name.startswith(mode))
            fields = {"prompt_ids": entry["prompt"], "mode": mode}
            fields |= {key: value[key] for key in PASSED_ON if key in value}
            fields |= {"ignore_eos": True} if "noeos" in name else {}
            fields |= {"lora": True} if "lora" in name else {}
            trace = value.get("commits_per_block", value.get("draft_passes_and_accepted_per_cycle"))
            cases.append(
                Case(f"{entry['id']}-{name}", fields, value["tokens"][: value["max_new_tokens"]], value["nfe"], trace)
            )
    return cases
