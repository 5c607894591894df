"""Section: every operator but the products, beside torch and beside its bound.

R = rows, H = hidden, J = twice the intermediate size, V = vocabulary, T = tokens, D = head dim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from trimode.bench.gpu.attention import attention_cases
from trimode.bench.gpu.comparison import OURS, Case, compare
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.timing import Call
from trimode.kernels.best_token import best_token
from trimode.kernels.confidence_commit import confidence_commit
from trimode.kernels.confidence_commit import reference as commit_reference
from trimode.kernels.draw import draw
from trimode.kernels.draw import reference as draw_reference
from trimode.kernels.low_rank import add_low_rank
from trimode.kernels.low_rank import reference as low_rank_reference
from trimode.kernels.prefix_verify import prefix_verify
from trimode.kernels.prefix_verify import reference as verify_reference
from trimode.kernels.rms_norm import reference as norm_reference
from trimode.kernels.rms_norm import rms_norm
from trimode.kernels.rope import reference as rope_reference
from trimode.kernels.rope import rotate_and_store
from trimode.kernels.silu_mul import reference as silu_reference
from trimode.kernels.silu_mul import silu_mul

EPS = 1e-5
RANK = 128
"""Of the released drafter's adapter."""


def run(bench: Bench) -> None:
    """Measures all cases of the first model."""
    makers = (attention_cases, norm_cases, rope_cases, silu_cases, low_rank_cases, logit_cases, decision_cases)
    for make in makers:
        for case in make(bench):
            size = ", ".join(f"{name} {value}" for name, value in case.conditions.items())
            if bench.is_out_of_time(f"{case.name} ({size}) and all after it"):
                return
            bench.guarded(f"{case.name} ({size})", functools.partial(compare, bench, case))


def compiled(bench: Bench, plain: Callable[..., object], rows: int) -> dict[str, Callable[..., object]]:
    """Returns the rivals of a pointwise operator: its formula in plain torch, at one size through torch.compile too."""
    rivals: dict[str, Callable[..., object]] = {"torch": plain}
    if rows == bench.plan.rows[1]:  # compiling takes seconds
        backend = "eager" if bench.plan.dry else "inductor"
        rivals["torch.compile"] = torch.compile(plain, backend=backend, dynamic=False)
    return rivals


def calls(ours: Callable[..., object], rivals: dict[str, Callable[..., object]], *args: object) -> dict[str, Call]:
    """Returns all sides of a comparison on the same arguments."""
    sides = {OURS: ours} | rivals
    return {name: functools.partial(side, *args) for name, side in sides.items()}


def norm_cases(bench: Bench) -> Iterator[Case]:
    """RMSNorm."""
    hidden = _first(bench)["hidden_size"]
    for rows in bench.plan.rows:
        rivals = compiled(bench, norm_reference.rms_norm, rows)

        def make(rows: int = rows, rivals: dict[str, Callable[..., object]] = rivals) -> dict[str, Call]:
            return calls(rms_norm, rivals, _randn(bench, rows, hidden), _randn(bench, hidden), EPS)

        yield Case(
            name="rms_norm", num_bytes=_size(bench) * (2 * rows + 1) * hidden, make=make, conditions={"rows": rows}
        )


def silu_cases(bench: Bench) -> Iterator[Case]:
    """The gated activation."""
    width = 2 * _first(bench)["intermediate_size"]
    for rows in bench.plan.rows:
        rivals = compiled(bench, silu_reference.silu_mul, rows)

        def make(rows: int = rows, rivals: dict[str, Callable[..., object]] = rivals) -> dict[str, Call]:
            return calls(silu_mul, rivals, _randn(bench, rows, width))

        num_bytes = _size(bench) * rows * (width + width // 2)
        yield Case(name="silu_mul", num_bytes=num_bytes, make=make, conditions={"rows": rows})


def rope_cases(bench: Bench) -> Iterator[Case]:
    """The rotation of queries and keys, with the store into the cache."""
    shape = _first(bench)
    kv_heads, head_dim = shape["num_key_value_heads"], shape["head_dim"]
    heads = shape["num_attention_heads"] + 2 * kv_heads
    for rows in bench.plan.rows:
        rivals = compiled(bench, rope_reference.rotate_and_store, rows)

        def make(rows: int = rows, rivals: dict[str, Callable[..., object]] = rivals) -> dict[str, Call]:
            angles = torch.rand(rows, head_dim, device=bench.device)
            cos, sin = angles.cos().to(bench.plan.dtype), angles.sin().to(bench.plan.dtype)
            cache = _randn(bench, 2 * rows, 2 * kv_heads, head_dim)
            slots = torch.randperm(2 * rows, device=bench.device)[:rows]
            return calls(rotate_and_store, rivals, _randn(bench, rows, heads, head_dim), cos, sin, cache, slots)

        rotated = shape["num_attention_heads"]  # queries are written in place, keys and values into the cache
        num_bytes = _size(bench) * rows * head_dim * (heads + rotated + 2 * kv_heads + 2) + 8 * rows
        yield Case(name="rope and store", num_bytes=num_bytes, make=make, conditions={"rows": rows})


def low_rank_cases(bench: Bench) -> Iterator[Case]:
    """The drafter's adapter on the output of attention, for all rows."""
    shape = _first(bench)
    hidden, width = shape["hidden_size"], shape["num_attention_heads"] * shape["head_dim"]
    for rows in bench.plan.rows:

        def make(rows: int = rows) -> dict[str, Call]:
            a, b = _randn(bench, RANK, width), _randn(bench, hidden, RANK)
            on = torch.ones(rows, dtype=torch.int32, device=bench.device)
            rivals: dict[str, Callable[..., object]] = {"torch": low_rank_reference.add_low_rank}
            return calls(add_low_rank, rivals, _randn(bench, rows, hidden), _randn(bench, rows, width), a, b, 0.5, on)

        num_bytes = _size(bench) * (RANK * (hidden + width) + rows * (2 * hidden + width))
        flop = 2.0 * rows * RANK * (hidden + width)
        yield Case(name="low_rank", num_bytes=num_bytes, flop=flop, make=make, conditions={"rows": rows})


def logit_cases(bench: Bench) -> Iterator[Case]:
    """What the sampler reads all logits for."""
    vocab = _first(bench)["vocab_size"]
    for rows in bench.plan.logit_rows:

        def make(rows: int = rows) -> dict[str, Call]:
            rivals: dict[str, Callable[..., object]] = {"torch": torch_best}
            return calls(functools.partial(best_token, suppressed=0), rivals, _randn(bench, rows, vocab))

        def sample(rows: int = rows) -> dict[str, Call]:
            probs = torch.randn((rows, vocab), device=bench.device).softmax(dim=1)
            numbers = torch.rand(rows, dtype=torch.double, device=bench.device).clamp(1e-6, 1 - 1e-6)
            return calls(draw, {"torch": draw_reference.draw}, probs, numbers)

        yield Case(name="draw", num_bytes=4 * rows * vocab, make=sample, conditions={"rows": rows})
        yield Case(name="best_token", num_bytes=_size(bench) * rows * vocab, make=make, conditions={"rows": rows})


def torch_best(logits_RV: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same numbers with torch's own operators."""
    peak_R, token_R = logits_RV.max(dim=1)
    return token_R, peak_R, torch.logsumexp(logits_RV.float(), dim=1)


def decision_cases(bench: Bench) -> Iterator[Case]:
    """The decisions of a block: tiny, so their time is that of a launch."""
    block = bench.plan.spec_block
    for rows in bench.plan.streams:

        def commit(rows: int = rows) -> dict[str, Call]:
            confidence = torch.rand(rows, block, device=bench.device)
            masked = torch.rand(rows, block, device=bench.device) < 0.7
            threshold = torch.full((rows,), 0.9, device=bench.device)
            best = torch.ones(rows, dtype=torch.int64, device=bench.device)
            rivals: dict[str, Callable[..., object]] = {"torch": commit_reference.confidence_commit}
            return calls(confidence_commit, rivals, confidence, masked, threshold, best)

        def verify(rows: int = rows) -> dict[str, Call]:
            tokens = torch.randint(4, (rows, block), device=bench.device)
            lengths = torch.full((rows,), block, dtype=torch.int64, device=bench.device)
            rivals: dict[str, Callable[..., object]] = {"torch": verify_reference.prefix_verify}
            return calls(prefix_verify, rivals, tokens, tokens.roll(1, 1), lengths)

        yield Case(name="confidence_commit", num_bytes=6 * rows * block, make=commit, conditions={"rows": rows})
        yield Case(name="prefix_verify", num_bytes=16 * rows * block, make=verify, conditions={"rows": rows})


def _first(bench: Bench) -> dict[str, int]:
    return dict(next(iter(bench.plan.shapes.values())))


def _size(bench: Bench) -> int:
    return bench.plan.dtype.itemsize


def _randn(bench: Bench, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=bench.device).to(bench.plan.dtype)
