"""Sections: transformers with a model of the same geometry, run eagerly and through torch.compile.

Both have a static cache and end each step with one token per row on the host, as our steps do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from trimode.bench.gpu.build import Variant
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.records import Record
from trimode.bench.gpu.timing import time_host

NAMES = ("cache", "past_key_values")
"""Names of the cache argument in transformers 5, newest first."""


def run(bench: Bench) -> None:
    """Measures the eager model."""
    bench.guarded("transformers eager", functools.partial(eager, bench))


def eager(bench: Bench) -> None:
    """Steps of one token at all numbers of streams, and of a whole block at one stream."""
    model = Ministral(bench)
    points = [(streams, 1) for streams in bench.plan.streams] + [(1, bench.plan.spec_block)]
    for streams, tokens in points:
        if bench.is_out_of_time(f"transformers eager, {streams} streams x {tokens} tokens"):
            return
        record(bench, "transformers eager", model.step(streams, tokens), streams, tokens)


def record(bench: Bench, name: str, step: Callable[[], object], streams: int, tokens: int) -> None:
    """Measures a rival's step and records it beside ours, which an earlier section measured."""
    seconds = time_host(step, bench.plan.spend_s)
    first = next(iter(bench.plan.shapes))
    ours = bench.earlier.value("step", streams=streams, tokens=tokens, **Variant(model=first).conditions())
    bench.record(
        Record(
            name=f"{name} step",
            value=seconds * 1e3,
            unit="ms",
            rival="trimode",
            rival_value=ours,
            ratio=None if ours is None else seconds * 1e3 / ours,
            conditions={"model": first, "streams": streams, "tokens": tokens, "context": bench.plan.context},
        )
    )


class Ministral:
    """`Ministral3ForCausalLM` of the first model's geometry with random weights."""

    def __init__(self, bench: Bench) -> None:
        from transformers import Ministral3Config, Ministral3ForCausalLM

        self._bench = bench
        shape = dict(next(iter(bench.plan.shapes.values())))
        before = torch.get_default_dtype()
        torch.set_default_dtype(bench.plan.dtype)
        try:
            with bench.device:
                self.model: Any = Ministral3ForCausalLM(Ministral3Config(**shape, pad_token_id=None)).eval()
        finally:
            torch.set_default_dtype(before)
        self._plain_forward = self.model.forward
        """The prefill takes it, compiled or not."""
        self._name = next(name for name in NAMES if name in _parameters(self.model.forward))

    def step(self, streams: int, tokens: int) -> Callable[[], None]:
        """Prefills the context and returns one step behind it, always at the same place."""
        from transformers import StaticCache

        plan, device = self._bench.plan, self._bench.device
        vocab = self.model.config.vocab_size
        cache: Any = StaticCache(config=self.model.config, max_cache_len=plan.context + max(plan.step_tokens))
        ids = torch.randint(vocab, (streams, tokens), device=device)

        @torch.no_grad()
        def run() -> None:
            logits = self.model(input_ids=ids, use_cache=True, **{self._name: cache}).logits
            logits.argmax(dim=-1).tolist()
            rewind(cache, plan.context)

        prompt = torch.randint(vocab, (streams, plan.context), device=device)
        with torch.no_grad():
            self._plain_forward(input_ids=prompt, use_cache=True, logits_to_keep=1, **{self._name: cache})
        return run


def rewind(cache: Any, length: int) -> None:  # noqa: ANN401 -- a transformers cache
    """Makes a static cache forget what follows its first `length` tokens."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(length)


def _parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)
