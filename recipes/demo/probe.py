"""Held-out measurements while training: share of exact answers and tokens per forward of each mode."""

from collections.abc import Callable, Mapping, Sequence

from trimode.recipes.demo.batches import Row
from trimode.recipes.demo.decode import Decoding, Logits, decode_ar, decode_dlm, decode_linear_spec

LIMIT = 96
THRESHOLD = 0.9


def _measures(rows: Sequence[Row], decoded: Sequence[Decoding]) -> dict[str, float]:
    exact = sum(row.answer_ids[:-1] == one.output_ids for row, one in zip(rows, decoded, strict=True))
    tokens, nfe = sum(len(one.output_ids) for one in decoded), sum(one.nfe for one in decoded)
    return {"exact": round(exact / len(rows), 4), "tpf": round(tokens / nfe, 3)}


def measure(
    logits: Logits, rows: Mapping[str, Sequence[Row]], draft_logits: Logits | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns {mode: {benchmark: {exact, tpf}}}."""
    modes: dict[str, Callable[[list[list[int]]], list[Decoding]]] = {
        "ar": lambda prompts: decode_ar(logits, prompts, LIMIT),
        "dlm": lambda prompts: decode_dlm(logits, prompts, LIMIT, THRESHOLD),
        "linear_spec": lambda prompts: decode_linear_spec(logits, draft_logits or logits, prompts, LIMIT),
    }
    del modes["ar"]  # linear_spec writes the same tokens
    return {
        mode: {name: _measures(some, decode([row.prompt_ids for row in some])) for name, some in rows.items()}
        for mode, decode in modes.items()
    }
