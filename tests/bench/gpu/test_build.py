"""Engines of the GPU measurement: random weights, and graphs for the measured steps only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trimode.bench.gpu import build, loads
from trimode.bench.gpu.build import Point, Variant, capture_points, config_of, engine_of
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.plan import DRY, SHAPES
from trimode.bench.gpu.records import Findings
from trimode.bench.gpu.scripted import Script, scripted
from trimode.bench.gpu.steps import num_weights, weight_bytes
from trimode.tests.fakes.capture import CheckedCapture
from trimode.tests.workers.conftest import micro_settings
from trimode.workers.engine.buckets import Kind
from trimode.workers.engine.engine import Engine
from trimode.workers.runtime import Runtime


@pytest.mark.parametrize(("name", "parameters"), [("3B", 3_831_659_520), ("8B", 8_489_553_920)])
def test_shapes_are_those_of_the_released_models(name: str, parameters: int) -> None:
    shapes = build.expected_shapes(config_of(SHAPES[name]))
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters


def test_bytes_and_operations_of_a_forward(tmp_path: Path) -> None:
    bench = Bench(
        plan=DRY, device=torch.device("cpu"), deadline=0.0, file=tmp_path / "a.jsonl", earlier=Findings([], [])
    )
    model = engine_of(bench, Variant(model="8B"), []).model
    norms = (2 * model.config.num_layers + 1) * model.config.hidden_size
    assert weight_bytes(model) == (num_weights(model) + norms) * DRY.dtype.itemsize


def test_only_the_measured_steps_run_as_graphs() -> None:
    capture = CheckedCapture()
    model = Runtime(micro_settings(max_position_embeddings=192)).engine.model
    engine = Engine(model, 200, 2, capture=capture)
    capture_points(engine, [Point(2, 1), Point(2, 4), Point(2, 32, Kind.CYCLE)])
    assert capture.num_recorded == 3
    for params, graphs in (
        (loads.params_for("ar", 1, None, 30), True),
        (loads.params_for("ar", 4, None, 30), True),
        (loads.params_for("ar", 9, None, 30), False),
        (loads.params_for("linear_spec", 32, 0.0, 60), True),
    ):
        with scripted(engine, Script(6.82, 2.0)):
            sequences = loads.start(engine, params, 20, 2)
            engine.step()
            before = capture.num_replayed
            engine.step()
            assert (capture.num_replayed > before) == graphs, params
            loads.stop(engine, sequences)
