"""Steps as captured graphs: the forward, greedy tokens and the decisions on them run without the host's work.

A batch that no graph has room for runs without one. Where a request is sampled, the graph runs the forward only.

T = tokens, N = requests, H = hidden size.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from trimode.core.errors import WorkerError
from trimode.kernels.packing import Download
from trimode.workers.decode.chunk import Commit, Sampled, Verify
from trimode.workers.engine.buckets import Bucket, Buckets, Kind
from trimode.workers.engine.capture import Capture, is_out_of_memory
from trimode.workers.engine.scheduler import ScheduledChunk
from trimode.workers.engine.static_input import StaticInput, rules_of
from trimode.workers.model.batch import Batch
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.sampling.greedy import Greedy, decide, greedy, is_greedy
from trimode.workers.sampling.plan import ROWS_PER_PASS

_TABLES = 2
"""Tables of results: of the forward, or of draft and verify."""
_COLUMNS = 4
"""Token, confidence, log-probability and decision."""


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """What capturing took."""

    count: int
    """Graphs."""
    largest: Bucket
    seconds: float
    num_bytes: int
    """Memory of the device that is gone since; 0 on a CPU."""

    def __str__(self) -> str:
        """Returns one line for the log."""
        return (
            f"{self.count} graphs, the largest a {self.largest}, captured in {self.seconds:.1f} s, "
            f"{self.num_bytes / 2**20:.0f} MiB"
        )


@dataclass(frozen=True, slots=True)
class GraphRun:
    """A graph with greedy tokens that the device runs or has run."""

    bucket: Bucket
    ordered: Sequence[ScheduledChunk]
    """What runs, in the order of the batch."""
    results: Download
    """float64 `[tables, columns, T]`."""
    tokens_T: torch.Tensor
    """int64 on the device: what was sampled for each token that ran, wanted or not. Valid until the next graph runs."""

    def collect(self) -> list[list[Sampled]]:
        """Waits for the device. Returns one list of results per forward, in the order of the batch."""
        tables = self.results.wait().tolist()
        starts = itertools.accumulate((len(item.chunk.token_ids) for item in self.ordered), initial=0)
        places = list(zip(starts, self.ordered, strict=False))
        found = [[_sampled(tables[0], start, item) for start, item in places]]
        if self.bucket.kind is Kind.CYCLE:
            found.append([_verified(tables[1], start, item) for start, item in places])
        return found


class Graphs:
    """All graphs of an engine, and the memory that they read and write."""

    def __init__(
        self, model: TriModeModel, cache: KVCache, buckets: Buckets, capture: Capture, *, max_kv_tokens: int
    ) -> None:
        """Allocates the memory. `capture` must follow before the first step.

        Args:
            model: a loaded model.
            cache: its KV cache.
            buckets: the sizes.
            capture: where recordings come from.
            max_kv_tokens: most tokens of a request, scratch included.
        """
        self._model = model
        self._cache = cache
        self._buckets = buckets
        self._capture = capture
        self._replays: dict[Bucket, Callable[[], None]] = {}
        device, largest = model.device, buckets.all[0]
        num_pages = -(-max_kv_tokens // PAGE_SIZE)
        self._input = StaticInput(buckets.all, num_pages, cache.spare_page, device)
        self._hidden_TH = torch.zeros((largest.tokens, model.config.hidden_size), dtype=model.dtype, device=device)
        self._tokens_T = torch.zeros(largest.tokens, dtype=torch.long, device=device)
        """What the last step sampled. A step that is launched before that is read names its unknown tokens by their
        places here."""
        self._results = torch.zeros(_TABLES * _COLUMNS * largest.tokens, dtype=torch.double, device=device)

    @property
    def buckets(self) -> Sequence[Bucket]:
        """All graphs, from the largest to the smallest."""
        return self._buckets.all

    def capture(self, buckets: Sequence[Bucket] | None = None) -> CaptureReport:
        """Captures all graphs, from the largest to the smallest, so that the smaller ones fit into its memory.

        Args:
            buckets: capture these only.

        Raises:
            WorkerError: the device has no room. Names the graph and what to lower.
        """
        device = self._model.device
        began, free = time.perf_counter(), _free_bytes(device)
        for bucket in self._buckets.all if buckets is None else buckets:
            self._record(bucket)
        num_bytes = free - _free_bytes(device)
        return CaptureReport(len(self._replays), self._buckets.all[0], time.perf_counter() - began, num_bytes)

    def choose(self, scheduled: Sequence[ScheduledChunk]) -> Bucket | None:
        """Returns the captured graph for these chunks, at least one; None if they run without one."""
        chunks = [item.chunk for item in scheduled]
        lengths = [len(chunk.token_ids) for chunk in chunks]
        lora = self._model.adapter is not None and any(chunk.lora for chunk in chunks)
        kinds = [Kind.FORWARD]
        if all(map(_is_greedy, scheduled)):
            kinds = [Kind.CYCLE, Kind.GREEDY] if all(map(is_cycle, scheduled)) else [Kind.GREEDY]
        found = (self._buckets.choose(kind, lengths, lora=lora) for kind in kinds)
        return next((bucket for bucket in found if bucket in self._replays), None)

    def launch(self, bucket: Bucket, ordered: Sequence[ScheduledChunk], sources: Sequence[int] = ()) -> GraphRun:
        """Starts a graph with greedy tokens. The host does not wait for the device.

        Args:
            bucket: from `choose`.
            ordered: what runs, in the order of `batch_order`.
            sources: see `StaticInput.write`.
        """
        self._input.write(bucket, ordered, sources)
        self._replays[bucket]()
        tables = self._tables(bucket)
        # The next graph overwrites them. Only from a GPU a download is a copy.
        results = Download(tables if tables.is_cuda else tables.clone())
        return GraphRun(bucket, ordered, results, self._tokens_T)

    def can_take(self, tokens_R: torch.Tensor) -> bool:
        """Returns True if there is room for these tokens of the step before."""
        return tokens_R.shape[0] <= self._tokens_T.shape[0]

    def take(self, tokens_R: torch.Tensor) -> None:
        """Takes over what a step without a graph, or with one, has sampled, for `sources` of the next step."""
        if tokens_R is not self._tokens_T:
            self._tokens_T[: tokens_R.shape[0]].copy_(tokens_R)

    def forward(
        self, bucket: Bucket, ordered: Sequence[ScheduledChunk], sources: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Starts a graph without a sampler, see `launch`. The host does not wait for the device.

        Returns:
            The hidden states `[R, H]` and the token ids `[R]` of the wanted rows, in the order of the batch.
        """
        self._input.write(bucket, ordered, sources)
        self._replays[bucket]()
        rows_R = self._input.logit_rows(bucket, sum(len(item.chunk.rows) for item in ordered))
        return self._hidden_TH[rows_R], self._batch(bucket).token_ids_T[rows_R]

    def _record(self, bucket: Bucket) -> None:
        bodies = {Kind.FORWARD: self._forward, Kind.GREEDY: self._pass, Kind.CYCLE: self._cycle}
        outside = [
            self._model, self._cache, self._input.tensors, self._hidden_TH, self._tokens_T, self._results
        ]  # fmt: skip

        def body() -> None:
            with torch.inference_mode():
                bodies[bucket.kind](bucket)

        self._input.blank(bucket)
        try:
            self._replays[bucket] = self._capture.record(body, outside)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise WorkerError(
                f"{self._model.device} is out of memory: no room for the CUDA graph of a {bucket}; lower kv_cache_gb "
                f"or max_num_seqs: {error}"
            ) from None

    def _forward(self, bucket: Bucket) -> None:
        hidden_TH = self._model.forward(self._batch(bucket), self._cache, self._capture.after_layer)
        self._hidden_TH[: bucket.tokens].copy_(hidden_TH)

    def _pass(self, bucket: Bucket) -> None:
        batch = self._batch(bucket)
        found = self._greedy(batch, self._capture.after_layer)
        self._write(bucket, 0, found, decide(found, batch.token_ids_T, rules_of(batch, bucket)))

    def _cycle(self, bucket: Bucket) -> None:
        batch = self._batch(bucket)
        rules = rules_of(batch, bucket)
        draft = self._greedy(batch, self._capture.after_layer)
        wanted_T = rules.wanted_T != 0
        self._write(bucket, 0, draft, wanted_T.float())
        block_T = torch.where(wanted_T, draft.tokens, batch.token_ids_T)
        ragged = dataclasses.replace(batch.ragged, last_key_T=batch.positions_T.int(), _derived={})
        causal = dataclasses.replace(batch, token_ids_T=block_T, ragged=ragged, lora_T=None)
        verified = self._greedy(causal)
        every_row = dataclasses.replace(rules, verify_N=torch.ones_like(rules.verify_N))
        self._write(bucket, 1, verified, decide(verified, block_T, every_row))

    def _batch(self, bucket: Bucket) -> Batch:
        return self._input.batch(bucket).filled(self._tokens_T)

    def _greedy(self, batch: Batch, after_layer: Callable[[int], None] | None = None) -> Greedy:
        """Runs a forward and returns the greedy tokens of all its tokens."""
        hidden_TH = self._model.forward(batch, self._cache, after_layer)
        mask_token_id = self._model.config.mask_token_id
        found = [greedy(self._model.logits(part), mask_token_id) for part in hidden_TH.split(ROWS_PER_PASS)]
        if len(found) == 1:
            return found[0]
        return Greedy(
            torch.cat([part.tokens for part in found]),
            torch.cat([part.confidences for part in found]),
            torch.cat([part.logprobs for part in found]),
        )

    def _tables(self, bucket: Bucket) -> torch.Tensor:
        """The results of a bucket, `[tables, columns, T]`."""
        num_tables = 2 if bucket.kind is Kind.CYCLE else 1
        size = num_tables * _COLUMNS * bucket.tokens
        return self._results[:size].view(num_tables, _COLUMNS, bucket.tokens)

    def _write(self, bucket: Bucket, table: int, found: Greedy, decisions_T: torch.Tensor) -> None:
        self._tokens_T[: bucket.tokens].copy_(found.tokens)
        columns = (found.tokens, found.confidences, found.logprobs, decisions_T)
        for column, values_T in zip(self._tables(bucket)[table], columns, strict=True):
            column.copy_(values_T)


def align(scheduled: list[ScheduledChunk]) -> list[ScheduledChunk]:
    """Returns what is to run of these chunks.

    Where some requests could run a whole cycle and all others verify, the former wait for one step. From the next step
    on all of them run whole cycles; otherwise they would never meet again.
    """
    later = [item for item in scheduled if item.chunk.kind != "verify"]
    verified = [item for item in scheduled if item.chunk.kind == "verify"]
    return verified if verified and all(map(is_cycle, later)) else scheduled


def is_cycle(item: ScheduledChunk) -> bool:
    """Returns True if what follows a chunk verifies the greedy tokens of this chunk at the same place."""
    if not _is_greedy(item) or min(item.chunk.token_ids) < 0:  # its block is not known to the decoder yet
        return False
    then = item.sequence.state.following(item.chunk)
    if then is None or then.position != item.chunk.position:
        return False
    return isinstance(then.selection, Verify) and is_greedy(then) and not then.lora


def _is_greedy(item: ScheduledChunk) -> bool:
    return item.sequence.state.params.temperature <= 0 and is_greedy(item.chunk)


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _sampled(table: list[list[float]], start: int, item: ScheduledChunk) -> Sampled:
    """The result of a chunk from the table of its forward."""
    chunk = item.chunk
    tokens, confidences, logprobs, decisions = ([column[start + row] for row in chunk.rows] for column in table)
    sampled = Sampled([int(token) for token in tokens], confidences, logprobs)
    if isinstance(chunk.selection, Commit):
        sampled.committed = [value > 0 for value in decisions]
    elif isinstance(chunk.selection, Verify):
        sampled.accepted = int(decisions[0])
    return sampled


def _verified(table: list[list[float]], start: int, item: ScheduledChunk) -> Sampled:
    """The result of the verify that follows a draft chunk in its cycle."""
    end = start + len(item.chunk.token_ids)
    tokens, confidences, logprobs, decisions = (column[start:end] for column in table)
    return Sampled([int(token) for token in tokens], confidences, logprobs, accepted=int(decisions[0]))
