"""The layers of a step as recorded kernel calls on a CPU: Python is left once per step instead of once per kernel.

Between two of about nine kernel calls a layer, Python needs as long as a small kernel runs. The calls of a step depend
on its number of tokens alone, and not on the requests. So they are prepared once per number of tokens, on buffers at
fixed addresses, and then run by one compiled function. The kernels and their order are those of the model's own
forward, which stays the reference: results are equal to the last bit.

T = tokens of the step, H = hidden, D = head dim.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from trimode.kernels import linear, paged_attention, rms_norm, rope, silu_mul
from trimode.kernels.linear import Prepared
from trimode.kernels.llvm.jit import Call
from trimode.kernels.llvm.tape import Scratch, Tape, UnboundError
from trimode.workers.model.batch import Batch
from trimode.workers.model.checkpoint import ModelConfig
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache

MAX_TOKENS = 3072
"""Most tokens of a recorded step: the most prompt tokens of a step, and 1,024 beside them. In a large step Python's
part is small, but no result has to be allocated, and the C library would keep that memory beside the buffers here."""
MAX_CALLS = 1 << 16
"""Calls of all steps that are kept, some 320 bytes each: 20 MiB. Beyond it, the steps used least recently are
dropped."""

Adapt = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""`adapt(y_TH, x_TA, layer)` returns y with the adapter of a layer added, given the inputs of the product. May change
y."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; q, k, v and gate, up are fused."""

    input_norm: torch.Tensor
    qkv: Prepared
    """`[(heads + 2 * kv_heads) * head_dim, H]`."""
    o: Prepared
    post_norm: torch.Tensor
    gate_up: Prepared
    """`[2 * intermediate, H]`."""
    down: Prepared


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary tables of one step `[T, D]`, in the activation dtype."""

    cos: torch.Tensor
    sin: torch.Tensor
    query_scale: torch.Tensor | None
    """`[T]`; None if it is 1 everywhere."""


class _Buffers:
    """What the calls of a step read and write, for up to MAX_TOKENS tokens.

    Two results that are never needed at the same time share their memory. What no step uses of it takes none.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.x = torch.empty((MAX_TOKENS, config.hidden_size), dtype=dtype)
        """The tokens between two parts of a layer. A product adds to them in place."""
        most = max(config.hidden_size, heads * head_dim, config.intermediate_size)
        self.inputs = torch.empty(MAX_TOKENS * most, dtype=dtype)
        """What a product reads: normalised tokens, the result of attention, activated rows."""
        most = max((heads + 2 * kv_heads) * head_dim, 2 * config.intermediate_size)
        self.outputs = torch.empty(MAX_TOKENS * most, dtype=dtype)
        """What a product writes: queries, keys and values, or gate and up."""
        self.cos, self.sin = (torch.empty((MAX_TOKENS, head_dim), dtype=dtype) for _ in range(2))
        self.slots = torch.empty(MAX_TOKENS, dtype=torch.int64)
        self.scratch = Scratch()


def _rows(memory: torch.Tensor, tokens: int, width: int) -> torch.Tensor:
    """Returns the beginning of the memory as rows, contiguous."""
    return memory[: tokens * width].view(tokens, width)


class _Step:
    """The calls of all layers for one number of tokens."""

    def __init__(
        self,
        config: ModelConfig,
        layers: Sequence[Layer],
        pages: Sequence[torch.Tensor],
        buffers: _Buffers,
        tokens: int,
    ) -> None:
        self.x, self.cos, self.sin, self.slots = (
            whole[:tokens] for whole in (buffers.x, buffers.cos, buffers.sin, buffers.slots)
        )
        heads, eps, scratch = config.num_heads, config.rms_norm_eps, buffers.scratch
        normed = _rows(buffers.inputs, tokens, config.hidden_size)
        self.attended = _rows(buffers.inputs, tokens, heads * config.head_dim)
        activated = _rows(buffers.inputs, tokens, config.intermediate_size)
        qkv = _rows(buffers.outputs, tokens, (heads + 2 * config.num_kv_heads) * config.head_dim)
        gate_up = _rows(buffers.outputs, tokens, 2 * config.intermediate_size)
        qkv_TND = qkv.view(tokens, heads + 2 * config.num_kv_heads, config.head_dim)
        self.queries = qkv_TND[:, :heads]
        calls: list[Call] = []
        self.attention: list[Call] = []
        self.ends: list[tuple[int, int, int]] = []
        """Per layer: the number of calls up to the final queries, to the output product of attention, and to the
        layer's end."""
        for number, layer in enumerate(layers):
            attend = paged_attention.prepare(self.queries, pages[number], config.head_dim**-0.5, self.attended)
            self.attention.append(attend)
            calls += [
                rms_norm.prepare(self.x, layer.input_norm, eps, normed),
                *linear.prepare_calls(normed, layer.qkv, None, qkv, scratch),
                rope.prepare(qkv_TND, self.cos, self.sin, pages[number].flatten(0, 1), self.slots),
            ]
            rotated = len(calls)
            calls += [
                attend,
                *linear.prepare_calls(self.attended, layer.o, self.x, self.x, scratch),
            ]
            attended = len(calls)
            calls += [
                rms_norm.prepare(self.x, layer.post_norm, eps, normed),
                *linear.prepare_calls(normed, layer.gate_up, None, gate_up, scratch),
                silu_mul.prepare(gate_up, activated),
                *linear.prepare_calls(activated, layer.down, self.x, self.x, scratch),
            ]
            self.ends.append((rotated, attended, len(calls)))
        self.num_calls = len(calls)
        self.tape = Tape(calls)


class RecordedLayers:
    """The recorded steps of one model."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, layers: Sequence[Layer]) -> None:
        """Nothing is recorded before it runs.

        Args:
            config: of the model.
            dtype: of the activations.
            layers: the weights, on a CPU.
        """
        self._config, self._dtype, self._layers = config, dtype, layers
        self._buffers = _Buffers(config, dtype)
        self._cache: weakref.ref[KVCache] | None = None
        self._steps: dict[tuple[int, int], _Step] = {}
        """By tokens and threads, the last one used at the end."""
        self._num_calls = 0
        self.refused = self._refusal()
        """Why the model's layers cannot be recorded; None if they can."""

    def _refusal(self) -> str | None:
        config = self._config
        if not self._layers:
            return "no layers"
        try:
            page = torch.empty((1, PAGE_SIZE, 2 * config.num_kv_heads, config.head_dim), dtype=self._dtype)
            _Step(config, self._layers, [page] * config.num_layers, self._buffers, 1)
        except UnboundError as error:
            return str(error)
        return None

    def describe(self) -> str:
        """Returns how the layers run, and why."""
        if self.refused is not None:
            return f"a call per kernel: {self.refused}"
        return f"a call per step of up to {MAX_TOKENS} tokens; more where an adapter or a query scale applies"

    def run(
        self, x_TH: torch.Tensor, rotation: Rotation, batch: Batch, cache: KVCache, adapt: Adapt | None
    ) -> torch.Tensor | None:
        """Runs all layers.

        Args:
            x_TH: embedded tokens.
            rotation: the rotary tables of the step.
            batch: the step.
            cache: where its keys and values go.
            adapt: adds the adapter to what the output product of attention gave; None = no token has it on.

        Returns:
            What the last layer gives, `[T, H]`, until the next run; None if such a step is not recorded.
        """
        tokens = x_TH.shape[0]
        if self.refused is not None or tokens > MAX_TOKENS or not paged_attention.has_rows(batch.ragged):
            return None
        step, config = self._step(tokens, cache), self._config
        paged_attention.set_rows(step.attention, batch.ragged, config.num_heads, config.num_kv_heads)
        for target, source in (
            (step.x, x_TH), (step.cos, rotation.cos), (step.sin, rotation.sin), (step.slots, batch.slots_T)
        ):  # fmt: skip
            target.copy_(source)
        if adapt is None and rotation.query_scale is None:
            step.tape.run()
        else:
            _run_in_parts(step, rotation.query_scale, adapt)
        return step.x

    def _step(self, tokens: int, cache: KVCache) -> _Step:
        if self._cache is None or self._cache() is not cache:
            self._cache = weakref.ref(cache)
            self._steps.clear()
            self._num_calls = 0
        key = tokens, torch.get_num_threads()
        step = self._steps.pop(key, None)
        if step is None:
            pages = [cache.layer(number) for number in range(self._config.num_layers)]
            step = _Step(self._config, self._layers, pages, self._buffers, tokens)
            self._num_calls += step.num_calls
            while self._steps and self._num_calls > MAX_CALLS:
                self._num_calls -= self._steps.pop(next(iter(self._steps))).num_calls
        self._steps[key] = step
        return step


def _run_in_parts(step: _Step, query_scale_T: torch.Tensor | None, adapt: Adapt | None) -> None:
    """Runs the calls, and what is not recorded between them."""
    begin = 0
    for number, (rotated, attended, end) in enumerate(step.ends):
        if query_scale_T is not None:
            step.tape.run(begin, rotated)
            step.queries.mul_(query_scale_T.view(-1, 1, 1))
            begin = rotated
        if adapt is not None:
            step.tape.run(begin, attended)
            step.x.copy_(adapt(step.x, step.attended, number))
            begin = attended
        step.tape.run(begin, end)
        begin = end
