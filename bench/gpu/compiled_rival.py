"""Section: the rival through torch.compile with a static cache and CUDA graphs, as its documentation advises."""

from __future__ import annotations

import functools
from typing import Any

import torch
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.rivals import Ministral, record


def run(bench: Bench) -> None:
    """Measures steps of one token and of a whole block at one stream."""
    bench.guarded("transformers torch.compile", functools.partial(compiled, bench))


def compiled(bench: Bench) -> None:
    """Compiles the whole forward once per size of a step. The section's time may end while it compiles."""
    model = Ministral(bench)
    how: dict[str, Any] = {"backend": "eager"} if bench.plan.dry else {"mode": "reduce-overhead"}
    model.model.forward = torch.compile(model.model.forward, fullgraph=True, dynamic=False, **how)
    for tokens in (1, bench.plan.spec_block):
        if bench.is_out_of_time(f"transformers torch.compile, {tokens} tokens"):
            return
        bench.note("fact", f"transformers torch.compile compiles for {tokens} tokens")
        record(bench, "transformers torch.compile", model.step(1, tokens), 1, tokens)
