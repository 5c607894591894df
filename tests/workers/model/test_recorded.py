"""Recorded layers: a step gives the bits of the same step kernel by kernel, whatever ran before."""

from __future__ import annotations

import pytest
import torch
from trimode.kernels.linear.quantized import Scheme
from trimode.kernels.llvm import jit
from trimode.tests.workers.micro import MICRO
from trimode.workers.decode.chunk import Chunk
from trimode.workers.engine.scheduler import MAX_STEP_PREFILL
from trimode.workers.model import recorded
from trimode.workers.model.adapter import load_adapter, open_adapter
from trimode.workers.model.batch import pack
from trimode.workers.model.checkpoint import open_weights, read_config
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache
from trimode.workers.model.quantized import LoadOptions
from trimode.workers.model.recorded import MAX_TOKENS
from trimode.workers.model.transformer import TriModeModel

CPU = torch.device("cpu")
PAGES = 12
STORAGES = {
    "float32": (torch.float32, LoadOptions()),
    "bf16": (torch.bfloat16, LoadOptions()),
    "packed12": (torch.bfloat16, LoadOptions(packed12=True)),
    "w8a16": (torch.bfloat16, LoadOptions(scheme=Scheme.w8a16)),
    "w4a16": (torch.bfloat16, LoadOptions(scheme=Scheme.w4a16)),
}
compiled = pytest.mark.skipif(bool(jit.missing()), reason="the CPU kernels do not run here")


def loaded(dtype: torch.dtype, options: LoadOptions) -> TriModeModel:
    config = read_config(MICRO)
    model = TriModeModel(config, open_weights(MICRO), dtype, CPU, options)
    files, scale = open_adapter(MICRO / "linear_spec_lora", config)
    model.adapter = load_adapter(files, scale, config.num_layers, model.embedding)
    return model


def chunk(length: int, position: int = 0, *, causal: bool = True, lora: bool = False) -> Chunk:
    ids = [(7 * place + position) % 90 + 3 for place in range(length)]
    return Chunk("decode", ids, position, causal=causal, keep_kv=True, rows=range(length), purpose="t", lora=lora)


STEPS = [
    [chunk(1)],
    [chunk(5), chunk(1, 1), chunk(30, causal=False)],
    [chunk(63)],
    [chunk(5, 2), chunk(1, 31), chunk(30, 5, causal=False)],  # as many tokens in other rows
    [chunk(20, lora=True), chunk(16, 3, causal=False)],
    [chunk(36, lora=True)],
    [chunk(1, 2, lora=True)],
    [chunk(90)],  # positions beyond those that queries are scaled from
    [chunk(36, 50, lora=True)],  # both
    [chunk(100), chunk(100)],
    [chunk(180), chunk(170, 10), chunk(150, causal=False)],  # products in several parts
    [chunk(1, 3)],
]


def run(model: TriModeModel, cache: KVCache, step: list[Chunk]) -> torch.Tensor:
    tables = [list(range(PAGES * number, PAGES * (number + 1))) for number in range(len(step))]
    return model.forward(pack(step, tables, PAGE_SIZE, CPU), cache)


def without_recording(model: TriModeModel, cache: KVCache, step: list[Chunk]) -> torch.Tensor:
    recorded, model.recorded = model.recorded, None
    try:
        return run(model, cache, step)
    finally:
        model.recorded = recorded


@compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("storage", STORAGES)
def test_steps_have_the_bits_of_single_calls(storage: str, threads: int) -> None:
    model = loaded(*STORAGES[storage])
    if model.layers[0].qkv.layout == "quantized":
        pytest.skip("quantised weights have no CPU kernel here")
    ours, theirs = (KVCache(model.config, 3 * PAGES, model.dtype, CPU) for _ in range(2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for step in STEPS:
            assert torch.equal(run(model, ours, step), without_recording(model, theirs, step)), step
            for number in range(model.config.num_layers):
                assert torch.equal(ours.layer(number), theirs.layer(number)), (step, number)
    finally:
        torch.set_num_threads(before)


@compiled
def test_most_steps_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(*STORAGES["float32"])
    cache = KVCache(model.config, 3 * PAGES, model.dtype, CPU)
    singly: list[int] = []
    real = model._run_layers

    def watched(x: torch.Tensor, *rest: object) -> torch.Tensor:
        singly.append(len(x))
        return real(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "_run_layers", watched)
    for step in STEPS:
        run(model, cache, step)
    assert singly == []
    cache = KVCache(model.config, 20 * PAGES, model.dtype, CPU)
    most = [chunk(MAX_TOKENS // 16) for _ in range(16)]
    run(model, cache, most)
    assert singly == []
    run(model, cache, [*most, chunk(1)])
    assert singly == [MAX_TOKENS + 1]


@compiled
def test_steps_that_were_not_used_for_long_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(*STORAGES["float32"])
    cache = KVCache(model.config, PAGES, model.dtype, CPU)
    kept = model.recorded
    assert kept is not None
    expected = [run(model, cache, [chunk(length)]) for length in (1, 2, 3)]
    calls = [step.num_calls for step in kept._steps.values()]
    monkeypatch.setattr(recorded, "MAX_CALLS", sum(calls))
    for length, remaining in ((1, [2, 3, 1]), (4, [3, 1, 4]), (2, [1, 4, 2])):
        result = run(model, cache, [chunk(length)])
        assert [tokens for tokens, _ in kept._steps] == remaining
        if length <= len(expected):
            assert torch.equal(result, expected[length - 1])
    monkeypatch.setattr(recorded, "MAX_CALLS", 1)
    assert torch.equal(run(model, cache, [chunk(3)]), expected[2])
    assert [tokens for tokens, _ in kept._steps] == [3]


@compiled
def test_results_that_are_never_needed_together_share_memory() -> None:
    model = loaded(*STORAGES["bf16"])
    assert model.recorded is not None
    config, buffers = model.config, model.recorded._buffers
    parts = (buffers.x, buffers.inputs, buffers.outputs, buffers.cos, buffers.sin, buffers.slots)
    inputs = max(config.hidden_size, config.num_heads * config.head_dim, config.intermediate_size)
    outputs = max((config.num_heads + 2 * config.num_kv_heads) * config.head_dim, 2 * config.intermediate_size)
    numbers = config.hidden_size + inputs + outputs + 2 * config.head_dim
    memory = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
    assert sum(memory.values()) == MAX_TOKENS * (2 * numbers + 8)
    # A step of any size has no memory of its own.
    cache = KVCache(config, 3 * PAGES, model.dtype, CPU)
    step = model.recorded._step(200, cache)
    own = (step.x, step.attended, step.queries, step.cos, step.sin, step.slots)
    assert {tensor.untyped_storage().data_ptr() for tensor in own} <= memory.keys()


def test_prompts_beside_running_requests_are_recorded() -> None:
    assert MAX_TOKENS >= MAX_STEP_PREFILL + 1024


@compiled
def test_another_cache_and_another_number_of_threads_are_seen() -> None:
    model = loaded(*STORAGES["float32"])
    first, second = (KVCache(model.config, 3 * PAGES, model.dtype, CPU) for _ in range(2))
    before = torch.get_num_threads()
    try:
        results = []
        for cache, threads in ((first, 1), (second, 1), (first, 2), (second, 2)):
            torch.set_num_threads(threads)
            results.append(run(model, cache, [chunk(20)]))
            assert model.recorded is not None
            assert {call.threads for call in model.recorded._step(20, cache).attention} == {threads}
        assert all(torch.equal(result, results[0]) for result in results)
        assert torch.equal(first.layer(3), second.layer(3))
        assert first.layer(3).any()
    finally:
        torch.set_num_threads(before)


def test_a_result_stays_when_the_next_step_runs() -> None:
    model = loaded(*STORAGES["float32"])
    cache = KVCache(model.config, 3 * PAGES, model.dtype, CPU)
    result = run(model, cache, [chunk(7)])
    copy = result.clone()
    run(model, cache, [chunk(7, 20)])
    assert torch.equal(result, copy)


def test_what_cannot_be_recorded_says_why() -> None:
    model = loaded(torch.float16, LoadOptions())
    assert model.recorded is not None
    assert model.describe_kernels()["layers"].startswith("a call per kernel: no ")
    cache = KVCache(model.config, 3 * PAGES, model.dtype, CPU)
    assert run(model, cache, [chunk(3)]).isfinite().all()


@compiled
def test_what_is_recorded_is_said() -> None:
    assert loaded(*STORAGES["bf16"]).describe_kernels()["layers"].startswith("a call per step of up to 3072 tokens")
