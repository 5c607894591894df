"""Section: tokens per second of the three modes, with the decisions of a trained model and everything else for real."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from statistics import median

from trimode.bench.gpu import loads
from trimode.bench.gpu.build import DRY_ROOM, ROOM, Point, Variant, engine_of
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.device_time import device_time
from trimode.bench.gpu.plan import ACCEPTED, DLM_TPF, PLAIN
from trimode.bench.gpu.records import Record
from trimode.bench.gpu.scripted import Script, dlm_passes, scripted
from trimode.core.protocol import Mode
from trimode.workers.engine.buckets import Kind
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence

SAMPLES = 3


def run(bench: Bench) -> None:
    """Measures the first model without quantisation at all numbers of streams, then the others."""
    first, *others = bench.plan.shapes
    variants = [Variant(model=first, scheme=scheme) for scheme in bench.plan.schemes]
    variants += [Variant(model=name) for name in others]
    variants.append(Variant(model=first, batch_invariant=True))
    for variant in variants:
        name = ", ".join(f"{key} {value}" for key, value in variant.conditions().items())
        bench.guarded(f"modes of {name}", functools.partial(_variant, bench, variant))


def _variant(bench: Bench, variant: Variant) -> None:
    full = variant.scheme == PLAIN and not variant.batch_invariant
    all_streams = bench.plan.streams if full else bench.plan.streams[:3:2]
    engine = engine_of(bench, variant, points(bench, all_streams))
    for streams in all_streams:
        for mode in (Mode.ar, Mode.dlm, Mode.linear_spec):
            if bench.is_out_of_time(f"{mode} of {variant} at {streams} streams"):
                return
            where = f"{mode} at {streams} streams"
            bench.guarded(where, functools.partial(measure, bench, engine, variant, mode, streams))


def points(bench: Bench, all_streams: Iterable[int]) -> list[Point]:
    """Returns the steps that the modes settle into: one token, a block of dlm, a whole cycle of linear_spec."""
    plan = bench.plan
    found = []
    for streams in all_streams:
        found += [Point(streams, 1), Point(streams, plan.dlm_block), Point(streams, plan.spec_block)]
        found.append(Point(streams, plan.spec_block, Kind.CYCLE))
    return found


def measure(bench: Bench, engine: Engine, variant: Variant, mode: Mode, streams: int) -> None:
    """Records the tokens per second of one mode, and how long the device waits for the host."""
    plan = bench.plan
    block = {Mode.ar: 1, Mode.dlm: plan.dlm_block, Mode.linear_spec: plan.spec_block}[mode]
    warm, profiled = (2, 2) if plan.dry else (4, 12)
    room = (DRY_ROOM if plan.dry else ROOM) - 3 * plan.spec_block
    params = loads.params_for(mode, block, {Mode.dlm: 0.9, Mode.linear_spec: 0.0}.get(mode), room)
    script = Script(ACCEPTED, dlm_passes(plan.dlm_block, DLM_TPF))
    per_forward = {Mode.ar: 1.0, Mode.dlm: DLM_TPF, Mode.linear_spec: min(ACCEPTED, block) / 2}[mode]
    with scripted(engine, script), loads.running(engine, params, plan.context, streams) as sequences:
        _steps(engine, warm)
        most = room - (profiled + 1) * int(2 * per_forward + 1)  # a step may hold two forwards
        rate, got = _rate(engine, sequences, most, plan.spend_s)
        found = device_time(functools.partial(_steps, engine, profiled), bench.device)
    forward = bench.earlier.value("step", streams=streams, tokens=block, **variant.conditions())
    bound = None if forward is None else streams * got / (forward / 1e3)
    where = variant.conditions() | {"mode": str(mode), "streams": streams, "block": block, "context": plan.context}
    bench.record(
        Record(
            name="tokens/s",
            value=rate,
            unit="tokens/s",
            bound=bound,
            bound_by=None if bound is None else "measured steps",
            share=None if bound is None else rate / bound,
            conditions=where | {"tokens per forward": round(got, 3)},
        )
    )
    if found is not None:
        bench.record(Record(name="host gap", value=100 * found.idle, unit="%", conditions=where))


def _rate(engine: Engine, sequences: list[Sequence], most: int, spend_s: float) -> tuple[float, float]:
    """Returns tokens per second of all requests (median of SAMPLES), and tokens per forward.

    No request gets more than about `most` tokens.
    """
    start = _longest(sequences)
    rates, tokens, forwards = [], 0, 0
    for sample in range(SAMPLES):
        limit = start + (most - start) * (sample + 1) // SAMPLES
        before, ran = _tokens(sequences), _forwards(sequences)
        began = time.perf_counter()
        _steps(engine, 2)
        while _longest(sequences) < limit and time.perf_counter() - began < spend_s:
            _steps(engine, 2)
        seconds = time.perf_counter() - began
        rates.append((_tokens(sequences) - before) / seconds)
        tokens += _tokens(sequences) - before
        forwards += _forwards(sequences) - ran
    return median(rates), tokens / max(1, forwards)


def _steps(engine: Engine, count: int) -> None:
    for _ in range(count):
        engine.step()


def _longest(sequences: list[Sequence]) -> int:
    return max(len(sequence.state.output) for sequence in sequences)


def _tokens(sequences: list[Sequence]) -> int:
    return sum(len(sequence.state.output) for sequence in sequences)


def _forwards(sequences: list[Sequence]) -> int:
    return sum(sum(sequence.state.forwards.values()) for sequence in sequences)
