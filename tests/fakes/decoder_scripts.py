"""Made-up ways to a given text: the passes of each mode, as denoise events, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

EMPTY_PASS = {"prefill": 1, "decode": 0, "denoise": 0, "cache": 0, "draft": 0, "verify": 0}


@dataclass(slots=True)
class Script:
    """One part of an answer: what the decoder did in one pass, and the text that it made final."""

    event: Json | None
    text: str = ""
    kind: str = "decode"
    accepted: int | None = None


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\s*[A-Za-z]+|\s*\d|\s*[^A-Za-z\d\s]|\s+", text)


def entry(text: str, state: str, p: float | None, number: int | None) -> Json:
    return {"id": 3 if state == "mask" else len(text) + 10, "text": text, "state": state, "p": p, "pass": number}


def event(mode: str, block: int, number: int, start: int, tokens: list[Json]) -> Json:
    return {"mode": mode, "block": block, "pass": number, "start": start, "tokens": tokens}


def confidence(position: int) -> float:
    return (0.998, 0.95, 0.93, 0.999, 0.8, 0.6, 0.4)[position % 7]


def ar(tokens: list[str], _block_length: int) -> Iterator[Script]:
    for i, token in enumerate(tokens):
        yield Script(event("ar", i, 1, i, [entry(token, "committed", confidence(i), 1)]), token)


def dlm(tokens: list[str], block_length: int) -> Iterator[Script]:
    for block, start in enumerate(range(0, len(tokens), block_length)):
        part = tokens[start : start + block_length]
        committed = {0: 0}
        for number in range(1, len(part) + 1):
            for i in range(len(part)):
                if i not in committed and (i * 7 + number) % 3 == 0:
                    committed[i] = number
            shown = [
                entry(token, "committed", confidence(start + i), committed[i])
                if i in committed
                else entry("", "mask", None, None)
                for i, token in enumerate(part)
            ]
            is_last = len(committed) == len(part)
            yield Script(event("dlm", block, number, start, shown), "".join(part) if is_last else "", "denoise")
            if is_last:
                break


def linear_spec(tokens: list[str], block_length: int) -> Iterator[Script]:
    yield Script(event("linear_spec", 0, 0, 0, [entry(tokens[0], "committed", 0.99, 0)]), tokens[0], "prefill")
    at, cycle = 1, 0
    while at < len(tokens):
        length = min(block_length - 1, len(tokens) - at)
        accepted = min(length - 1, (5, 9, 2, 14)[cycle % 4]) if length > 1 else 0
        right = tokens[at : at + accepted]
        wrong = [" maybe"] * (length - accepted)
        draft = [entry(text, "draft", confidence(i), 1) for i, text in enumerate([*right, *wrong])]
        yield Script(event("linear_spec", cycle, 1, at, draft), "", "draft")
        shown = [entry(text, "verified", 0.9, 1) for text in right]
        shown.append(entry(tokens[at + accepted], "committed", 0.97, 2))
        shown += [entry(text, "struck", 0.4, 1) for text in wrong]
        text = "".join(tokens[at : at + accepted + 1])
        yield Script(event("linear_spec", cycle, 2, at, shown), text, "verify", accepted + 1)
        at += accepted + 1
        cycle += 1


MODES = {"ar": ar, "dlm": dlm, "linear_spec": linear_spec}


def usage_of(script: list[Script], count: int) -> Json:
    forwards = dict(EMPTY_PASS)
    for part in script:
        forwards[part.kind] += part.kind != "prefill"
    nfe = sum(forwards.values()) - 1
    return {
        "prompt_tokens": 12,
        "completion_tokens": count,
        "nfe": nfe,
        "tpf": count / nfe,
        "forwards": forwards,
        "forwards_saved": 0,
        "acceptance_lengths": [part.accepted for part in script if part.accepted is not None],
        "queue_s": 0.001,
        "first_token_s": 0.01,
        "total_s": 0.1,
    }
