"""The engine's throughput in every mode, at several numbers of requests, beside a rival that runs one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from trimode.bench.machine import Machine
from trimode.core.protocol import DecodeParams
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.runtime import Runtime

CONTEXT = 256
CONCURRENT = (1, 8, 32)
NEW_TOKENS = 320
"""More than any measurement decodes. The cache holds 32 requests of this length."""
AR = DecodeParams(mode="ar", max_new_tokens=1, block_length=1, threshold=None)


@dataclass(frozen=True, slots=True)
class Load:
    """One mode under load. The quota of dlm gives 1 token per forward, whatever the weights are."""

    mode: str
    block_length: int
    threshold: float | None
    steps: int
    """Number of steps in one measurement: whole cycles of the mode."""


LOADS = (
    Load("ar", 1, None, 16), Load("dlm", 8, None, 8), Load("linear_spec", 8, 0.0, 8), Load("linear_spec", 32, 0.0, 4)
)  # fmt: skip


def weight_bytes_per_forward(model: TriModeModel) -> int:
    """Returns the bytes that every forward reads: all weights but the embedding, which gives one row per token."""
    return model.num_weight_bytes - model.embedding.numel() * model.embedding.element_size()


@dataclass(frozen=True, slots=True)
class Throughput:
    """Medians over the measurements of one load."""

    tokens_per_s: float
    forwards_per_s: float
    """Forwards of requests: rows of a step, not steps."""
    flop_per_s: float
    """Counts products with weights only, no attention."""
    host_gap: float
    """Share of a step's time outside the model and the sampler."""


class _CountingHead:
    def __init__(self, head: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._head = head
        self.rows = 0

    def __call__(self, hidden_RH: torch.Tensor) -> torch.Tensor:  # noqa: N803 -- as the model's
        self.rows += hidden_RH.shape[0]
        return self._head(hidden_RH)


class _Requests:
    """Decoding requests with different prompts of CONTEXT tokens, replaced in time, so that none ends in a measurement.

    Prompts are in the prefix cache from the first use on, so replaced requests begin almost together.
    """

    def __init__(self, runtime: Runtime, load: Load, concurrent: int) -> None:
        self._engine = runtime.engine
        self._params = DecodeParams(
            mode=load.mode, max_new_tokens=NEW_TOKENS, block_length=load.block_length,
            threshold=load.threshold, ignore_eos=True,
        )  # fmt: skip
        self._most = load.steps * load.block_length
        chance, vocab = torch.Generator().manual_seed(1), self._engine.model.config.vocab_size
        self._prompts = [torch.randint(vocab, (CONTEXT,), generator=chance).tolist() for _ in range(concurrent)]
        for number, prompt in enumerate(self._prompts):
            self._engine.add(f"prefix {number}", prompt, AR)
        while self._engine.busy:
            self._engine.step()
        self.all: list[Sequence] = []

    def be_ready(self) -> None:
        """Lets every request have a first token, and room for the tokens of one measurement."""
        if self.all and all(NEW_TOKENS - len(s.state.output) > self._most for s in self.all):
            return
        self.end()
        self.all = [self._engine.add(str(n), prompt, self._params) for n, prompt in enumerate(self._prompts)]
        while any(not s.state.output for s in self.all) or self._engine.waiting:
            self._engine.step()

    def end(self) -> None:
        """Cancels all requests."""
        for sequence in self.all:
            self._engine.cancel(sequence)
        self._engine.step()

    @property
    def num_tokens(self) -> int:
        """Tokens decoded so far by the present requests."""
        return sum(len(s.state.output) for s in self.all)


def measure_load(runtime: Runtime, load: Load, concurrent: int, repeats: int) -> Throughput:
    """Decodes `concurrent` requests; only steps after all prefills count."""
    engine, config = runtime.engine, runtime.engine.model.config
    head = _CountingHead(engine.model.head)
    engine.runner.sampler.head = head
    requests = _Requests(runtime, load, concurrent)
    head_size = config.vocab_size * config.hidden_size
    layer_flop = weight_bytes_per_forward(engine.model) - head_size * 2  # two bytes and two operations per weight
    results = []
    for _ in range(repeats):
        requests.be_ready()
        counters = engine.counters
        before = requests.num_tokens, sum(counters.rows.values()), counters.step_tokens
        head_rows, model_s = head.rows, counters.model_s
        began = time.perf_counter()
        for _ in range(load.steps):
            engine.step()
        seconds = time.perf_counter() - began
        flop = (counters.step_tokens - before[2]) * layer_flop + (head.rows - head_rows) * head_size * 2
        tokens = requests.num_tokens - before[0]
        forwards = sum(counters.rows.values()) - before[1]
        gap = 1 - (counters.model_s - model_s) / seconds
        results.append(Throughput(tokens / seconds, forwards / seconds, flop / seconds, gap))
        if len(engine.running) < concurrent:
            raise RuntimeError(f"{load}: a request ended while it was measured")
    requests.end()
    return Throughput(*(median(getattr(r, name) for r in results) for name in Throughput.__slots__))


def compare_loads(runtime: Runtime, reference: dict[int, float], machine: Machine, repeats: int) -> None:
    """Prints one line per mode and number of requests.

    The rival runs requests one at a time, with as many tokens per forward as the mode's block. `compare_steps` measures
    its step, with the logits of every row. Its host work between steps is not counted.
    """
    print(
        f"\nmatmul rate {machine.flop_per_s / 1e9:.0f} GFLOP/s (F.linear, bfloat16, 1024 x 4096 by 4096 x 4096)",
        end="; ",
    )
    print(f"through the engine's product {machine.own_flop_per_s / 1e9:.0f}")
    print(
        "| mode | block | concurrent | tokens/s | tokens a forward | forwards/s | transformers one at a time | ", end=""
    )
    print("trimode is | GFLOP/s | of matmul rate | host gap |\n|---|---|---|---|---|---|---|---|---|---|---|")
    for load in LOADS:
        for concurrent in CONCURRENT:
            got = measure_load(runtime, load, concurrent, repeats)
            rival_rate = 1 / reference[load.block_length]
            print(
                f"| {load.mode} | {load.block_length} | {concurrent} | {got.tokens_per_s:.1f} "
                f"| {got.tokens_per_s / got.forwards_per_s:.2f} | {got.forwards_per_s:.1f} | {rival_rate:.1f} "
                f"| {got.forwards_per_s / rival_rate:.1f}x | {got.flop_per_s / 1e9:.0f} "
                f"| {got.flop_per_s / machine.flop_per_s:.0%} | {got.host_gap:.1%} |",
                flush=True,
            )
