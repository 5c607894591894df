"""Section: steps of 1 to 64 tokens per stream through the whole engine, for every model and scheme.

A step counts from the choice of the chunks until their tokens are on the host.
"""

from __future__ import annotations

import functools
import time
from statistics import median

from trimode.bench.gpu import loads
from trimode.bench.gpu.build import DRY_ROOM, ROOM, Point, Variant, engine_of
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.device_time import device_time, profile_lines
from trimode.bench.gpu.records import Record
from trimode.core.protocol import DecodeParams
from trimode.workers.engine.engine import Engine
from trimode.workers.model.transformer import TriModeModel

STEPS_PER_SAMPLE = 4
PROFILED_STEPS = 12


def run(bench: Bench) -> None:
    """Measures the first model in every scheme, then its variants, then the other models."""
    first, *others = bench.plan.shapes
    plain = Variant(model=first)
    grid = [(streams, tokens) for streams in bench.plan.streams for tokens in bench.plan.step_tokens]
    small = [(streams, tokens) for streams, tokens in grid if streams * tokens <= bench.plan.most_tokens]
    measured = [(Variant(model=first, scheme=scheme), small) for scheme in bench.plan.schemes]
    measured[0] = (plain, grid)
    switched = [Variant(model=first, batch_invariant=True), Variant(model=first, graphs=False)]
    measured[1:1] = [(variant, list(bench.plan.variant_points)) for variant in switched]
    measured += [(Variant(model=name, scheme=scheme), small) for name in others for scheme in bench.plan.schemes]
    if len(small) < len(grid):
        bench.note("cut", f"steps of more than {bench.plan.most_tokens} tokens: measured for {first} in bf16 only")
    for variant, points in measured:
        name = ", ".join(f"{key} {value}" for key, value in variant.conditions().items())
        bench.guarded(f"steps of {name}", functools.partial(_variant, bench, variant, points, plain))


def _variant(bench: Bench, variant: Variant, points: list[tuple[int, int]], plain: Variant) -> None:
    began = time.perf_counter()
    engine = engine_of(bench, variant, (Point(streams, tokens) for streams, tokens in points))
    seconds = time.perf_counter() - began
    bench.record(Record(name="engine ready", value=seconds, unit="s", conditions=variant.conditions()))
    if variant == plain:
        kernels = engine.model.describe_kernels()
        bench.note("fact", "kernels: " + "; ".join(f"{name}: {how}" for name, how in kernels.items()))
    for streams, tokens in points:
        if bench.is_out_of_time(f"steps of {variant}, {streams} streams x {tokens} tokens"):
            return
        where = f"step of {streams} streams x {tokens} tokens"
        bench.guarded(where, functools.partial(measure, bench, engine, variant, streams, tokens))
        if variant == plain and tokens in (1, bench.plan.spec_block) and streams in bench.plan.streams[:3:2]:
            bench.guarded(f"profile of a {where}", functools.partial(profile_step, bench, engine, streams, tokens))


def measure(bench: Bench, engine: Engine, variant: Variant, streams: int, tokens: int) -> float:
    """Records one step. Returns its seconds."""
    with loads.running(engine, step_params(bench, tokens), bench.plan.context, streams):
        seconds = timed_steps(engine, bench.plan.spend_s)
    bound, by = bound_of(bench, engine.model, variant, streams, tokens)
    bench.record(
        Record(
            name="step",
            value=seconds * 1e3,
            unit="ms",
            bound=None if bound is None else bound * 1e3,
            bound_by=by,
            share=None if bound is None else bound / seconds,
            conditions=variant.conditions() | {"streams": streams, "tokens": tokens, "context": bench.plan.context},
        )
    )
    return seconds


def step_params(bench: Bench, tokens: int) -> DecodeParams:
    """Returns the parameters of a step of so many tokens: one is the real `ar` mode."""
    room = (DRY_ROOM if bench.plan.dry else ROOM) - 2 * max(bench.plan.step_tokens)
    return loads.params_for("ar", tokens, None, room)


def timed_steps(engine: Engine, spend_s: float) -> float:
    """Returns the median seconds of a step."""
    for _ in range(3 if spend_s else 0):
        engine.step()
    samples: list[float] = []
    began = time.perf_counter()
    while not samples or (time.perf_counter() - began < spend_s and len(samples) < 40):
        start = time.perf_counter()
        count = STEPS_PER_SAMPLE if spend_s else 1
        for _ in range(count):
            engine.step()
        samples.append((time.perf_counter() - start) / count)
    return median(samples)


def profile_step(bench: Bench, engine: Engine, streams: int, tokens: int) -> None:
    """Records how much of such a step the device waits, and notes its longest kernels."""
    count = PROFILED_STEPS if not bench.plan.dry else 1
    with loads.running(engine, step_params(bench, tokens), bench.plan.context, streams):
        before = engine.counters.model_s, engine.counters.host_s
        found = device_time(lambda: [engine.step() for _ in range(count)], bench.device)
    where = {"streams": streams, "tokens": tokens}
    host_s, model_s = engine.counters.host_s - before[1], engine.counters.model_s - before[0]
    share = host_s / (host_s + model_s)
    bench.record(Record(name="host share by the counters", value=100 * share, unit="%", conditions=where))
    if found is not None:
        bench.record(Record(name="host gap", value=100 * found.idle, unit="%", conditions=where))
        bench.note("profile", f"{streams} streams x {tokens} tokens: {profile_lines(found, count)}")


def bound_of(
    bench: Bench, model: TriModeModel, variant: Variant, streams: int, tokens: int
) -> tuple[float | None, str | None]:
    """Returns the least seconds of a step: weights and KV read once, or the operations of the products."""
    memory = bench.memory_rate()
    matmul = bench.rate("matmul rate fp8" if variant.scheme == "fp8" else "matmul rate")
    if memory is None:
        return None, None
    config, size = model.config, bench.plan.dtype.itemsize
    num_bytes = weight_bytes(model) + streams * (bench.plan.context + tokens) * config.kv_bytes_per_token * size
    flop = 2.0 * streams * tokens * num_weights(model)
    return max((num_bytes / memory, "bytes"), (flop / matmul if matmul else 0.0, "operations"))


def weight_bytes(model: TriModeModel) -> int:
    """Returns the bytes of the weights that every forward reads: all but the embedding."""
    return model.num_weight_bytes - model.embedding.nbytes


def num_weights(model: TriModeModel) -> int:
    """Returns the number of weights that every token is multiplied with."""
    config = model.config
    qkv = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    layer = config.hidden_size * (qkv + config.num_heads * config.head_dim + 3 * config.intermediate_size)
    return config.num_layers * layer + config.vocab_size * config.hidden_size
