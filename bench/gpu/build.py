"""An engine of a released model's geometry with random weights, made on the device and never written to disk."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.plan import PLAIN
from trimode.kernels.linear.quantized import Scheme
from trimode.workers.engine.buckets import Bucket, Buckets, Kind
from trimode.workers.engine.capture import graphs_for
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.model.checkpoint import MODEL_TYPE, ModelConfig, expected_shapes, read_config
from trimode.workers.model.kv_cache import pages_for
from trimode.workers.model.quantized import LoadOptions
from trimode.workers.model.transformer import TriModeModel

SPREAD = 0.02
ROOM = 384
DRY_ROOM = 128
"""Tokens per request after the prompt, on a GPU and in a dry run: more than any measurement decodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One engine to measure."""

    model: str
    """A name in the plan's shapes."""
    scheme: str = PLAIN
    batch_invariant: bool = False
    graphs: bool = True

    def conditions(self) -> dict[str, str | int | float | bool]:
        """Returns what its records say about it."""
        return {
            "model": self.model,
            "scheme": self.scheme,
            "batch_invariant": self.batch_invariant,
            "graphs": self.graphs,
        }


class RandomWeights:
    """Stands in for the files of a checkpoint: every tensor is drawn when it is asked for."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self.shapes = expected_shapes(config)
        self.dtypes = dict.fromkeys(self.shapes, "BF16")
        self.paths: list[Path] = []
        self._device = device
        self._chance = torch.Generator(device).manual_seed(0)

    def tensor(self, name: str) -> torch.Tensor:
        """Returns ones for a norm and random numbers for a matrix, in bfloat16 on the device."""
        shape = self.shapes[name]
        tensor = torch.ones(shape, dtype=torch.bfloat16, device=self._device)
        return tensor if len(shape) == 1 else tensor.normal_(0.0, SPREAD, generator=self._chance)


def config_of(shape: Mapping[str, Any]) -> ModelConfig:
    """Returns the config of a shape, read as a worker reads it."""
    with tempfile.TemporaryDirectory() as folder:
        content = dict(shape) | {"model_type": MODEL_TYPE, "mask_token_id": 100}
        (Path(folder) / "config.json").write_text(json.dumps(content), encoding="utf-8")
        return read_config(Path(folder))


def engine_of(bench: Bench, variant: Variant, points: Iterable[Point] | None, streams: int | None = None) -> Engine:
    """Returns an engine. The one before it must not be referred to any more.

    Args:
        bench: the section.
        variant: which engine.
        points: steps that run as graphs, if the variant has graphs. All other steps run without. None = graphs of all
            sizes are captured, as a worker does; that takes longer.
        streams: most requests at a time; None = the most of the plan.
    """
    gc.collect()  # of the engine before, whose graphs refer to each other
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    config = config_of(bench.plan.shapes[variant.model])
    files: Any = RandomWeights(config, bench.device)
    scheme = None if variant.scheme == PLAIN else Scheme(variant.scheme)
    options = LoadOptions(scheme=scheme, batch_invariant=variant.batch_invariant)
    model = TriModeModel(config, files, bench.plan.dtype, bench.device, options)
    room = bench.plan.context + (DRY_ROOM if bench.plan.dry else ROOM)
    streams = streams or max(bench.plan.streams)
    new_capture = graphs_for(model) if variant.graphs else None
    capture = None if new_capture is None else new_capture()
    engine = Engine(model, pages_for(room) * streams, streams, capture=capture)
    if points is not None:
        capture_points(engine, points)
    elif (report := engine.warm_up()) is not None:
        bench.note("fact", f"{variant.model}: {report}")
    return engine


@dataclass(frozen=True, slots=True)
class Point:
    """A step: the same number of tokens for each of some streams."""

    streams: int
    tokens: int
    kind: Kind = Kind.GREEDY


def capture_points(engine: Engine, points: Iterable[Point]) -> None:
    """Captures the graphs of these steps only, and lets every other step run without a graph."""
    graphs = engine.runner.graphs
    if graphs is None:
        return
    buckets = Buckets(engine.max_num_seqs, lora=engine.model.adapter is not None)
    chosen = (buckets.choose(point.kind, [point.tokens] * point.streams, lora=False) for point in points)
    captured = sorted({bucket for bucket in chosen if bucket is not None}, reverse=True)
    graphs.capture(captured)
    plain = graphs.choose

    def choose(scheduled: Sequence[ScheduledChunk]) -> Bucket | None:
        bucket = plain(scheduled)
        return bucket if bucket in captured else None

    graphs.choose = choose  # type: ignore[method-assign]
