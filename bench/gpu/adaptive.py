"""Section: the mode auto beside ar and linear_spec of every fixed width, with scripted fates, at several loads.

The engine is as a worker has it: all its graphs are captured, and what steps cost is measured before the first request.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from statistics import median

from trimode.bench.closed_loop import FATES, SETTINGS, Cell, measure_cell, new_texts, shares, texts, tokens_per_second
from trimode.bench.gpu.build import Variant, engine_of
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.records import Condition, Record
from trimode.core.protocol import DecodeParams
from trimode.workers.engine.buckets import Bucket
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import ScheduledChunk

KINDS = ("coding", "qa", "mixed", "never")
"""Of text, see `FATES`."""


def run(bench: Bench) -> None:
    """Measures the first model without quantisation."""
    bench.guarded("the mode auto", functools.partial(_engine, bench))


def _engine(bench: Bench) -> None:
    plan = bench.plan
    variant = Variant(model=next(iter(plan.shapes)))
    streams = max(plan.auto_streams)
    engine = engine_of(bench, variant, None, streams)
    engine.measure()
    times = engine.planner.widths.times
    believed = ", ".join(f"{rows}: {times.at(rows, min(rows, streams)):.2f}" for rows in (1, 8, 32, 64, 256, 1024))
    bench.note("fact", f"measured at the start, ms of a step by rows: {believed}")
    vocab = engine.model.config.vocab_size
    for load in plan.auto_streams[::2]:
        bench.guarded(f"prompts, {load} streams", functools.partial(_short_answers, bench, engine, load))
    prompts = texts(vocab, streams, plan.context)
    for kind, load in itertools.product(KINDS, plan.auto_streams):
        if bench.is_out_of_time(f"auto, {kind}, {load} streams"):
            return
        bench.guarded(f"auto, {kind}, {load} streams", functools.partial(_cell, bench, engine, prompts, kind, load))


def _short_answers(bench: Bench, engine: Engine, streams: int) -> None:
    """Records a load in which many steps have slices of prompts: with and without graphs for those steps."""
    plan = bench.plan
    length = plan.auto_length // 9
    params = DecodeParams(mode="ar", max_new_tokens=length, block_length=1, threshold=None, ignore_eos=True)
    tokens, found = round(plan.auto_tokens * streams**0.5), {}
    for graphs in (True, False, True):
        prompts = new_texts(engine.model.config.vocab_size, plan.context // 4)
        with nullcontext() if graphs else _prompts_without_graphs(engine):
            found[graphs], _ = tokens_per_second(engine, params, streams, prompts, tokens)
    where: dict[str, Condition] = {"streams": streams, "prompt": plan.context // 4, "answer": length}
    bench.record(
        Record(
            name="ar, short answers", value=found[True], unit="tokens/s", rival="without graphs for prompts",
            rival_value=found[False], ratio=found[True] / found[False], conditions=where,
        )
    )  # fmt: skip


@contextmanager
def _prompts_without_graphs(engine: Engine) -> Iterator[None]:
    """Inside the block steps with a slice of a prompt run without a graph."""
    graphs = engine.runner.graphs
    if graphs is None:
        yield
        return
    plain = graphs.choose

    def choose(scheduled: Sequence[ScheduledChunk]) -> Bucket | None:
        return None if any(item.chunk.kind == "prefill" for item in scheduled) else plain(scheduled)

    graphs.choose = choose  # type: ignore[method-assign]
    try:
        yield
    finally:
        del graphs.choose


def _cell(bench: Bench, engine: Engine, prompts: Sequence[Sequence[int]], kind: str, streams: int) -> None:
    plan = bench.plan
    tokens = round(plan.auto_tokens * streams**0.5)
    cell = measure_cell(
        engine, streams, lambda: itertools.cycle(prompts), tokens, FATES[kind],
        length=plan.auto_length, rounds=plan.auto_rounds,
    )  # fmt: skip
    times, longer = engine.planner.widths.times, engine.planner.widths.kinds.longer
    believed = ", ".join(f"{width}: {times.at(streams * width, streams):.2f}" for _, width in SETTINGS[:-1])
    bench.note("fact", f"{kind}, {streams} streams: believed ms by width {believed}; mixed steps {longer:.2f} times")
    where: dict[str, Condition] = {"text": kind, "streams": streams}
    for (mode, block), rate in cell.medians.items():
        told = where | {"mode": mode, "block": block}
        if (mode, block) == SETTINGS[-1]:
            _record_auto(bench, cell, told)
        else:
            bench.record(Record(name="fixed widths", value=rate, unit="tokens/s", conditions=told))


def _record_auto(bench: Bench, cell: Cell, where: dict[str, Condition]) -> None:
    ratios = cell.ratios(cell.best)
    mode, block = cell.best
    spread: dict[str, Condition] = {"least": round(ratios[0], 3), "most": round(ratios[-1], 3)}
    bench.record(
        Record(
            name="auto",
            value=cell.medians[SETTINGS[-1]],
            unit="tokens/s",
            rival=mode if mode == "ar" else f"{mode} {block}",
            rival_value=cell.medians[cell.best],
            ratio=median(ratios),
            conditions=where | spread | {"widths": shares(cell.widths)},
        )
    )
