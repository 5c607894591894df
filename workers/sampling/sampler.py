"""Turns hidden states of many chunks into tokens, confidences, and the commits or acceptance the chunks asked for.

All wanted rows are sampled together and reach the host in one transfer.
R = wanted rows, H = hidden, V = vocabulary, C = chunks that ask for a selection, B = rows of the longest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from trimode.core.protocol import DecodeParams
from trimode.kernels.argmax import argmax
from trimode.kernels.confidence_commit import confidence_commit
from trimode.kernels.prefix_verify import prefix_verify
from trimode.kernels.softmax_total import softmax_total
from trimode.workers.decode.chunk import Chunk, Commit, Confidence, Sampled, Verify
from trimode.workers.model.batch import int64
from trimode.workers.sampling.distributions import apply_repetition_penalty, draw, filtered_probs, residual
from trimode.workers.sampling.randomness import uniform

ROWS_PER_PASS = 256
"""Most rows whose logits exist at once (134 MB in float32 at 131,072 tokens); more rows take several passes."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One chunk and its request's parameters."""

    chunk: Chunk
    params: DecodeParams


@dataclass(slots=True)
class _Row:
    """One row whose logits are wanted."""

    request: SampleRequest
    index: int
    """Index among the chunk's wanted rows."""

    @property
    def position(self) -> int:
        """Absolute position of the token that is sampled."""
        chunk = self.request.chunk
        return chunk.position + chunk.rows[self.index] + chunk.sample_offset

    def uniform(self, purpose: str) -> float:
        return uniform(self.request.params.seed, self.position, purpose)


@dataclass(slots=True)
class _Drawn:
    """Result of one pass over at most ROWS_PER_PASS rows. All tensors are `[rows]`."""

    tokens: torch.Tensor
    confidences: torch.Tensor
    logprobs: torch.Tensor
    forced_logprobs: torch.Tensor
    """Of each chunk's forced token; 0 in chunks without one."""


class Sampler:
    """Samples the tokens of one model. Never samples the mask token."""

    def __init__(self, head: Callable[[torch.Tensor], torch.Tensor], mask_token_id: int) -> None:
        self.head = head
        """Hidden states `[R, H]` to logits `[R, V]`, which the sampler may overwrite."""
        self._mask_token_id = mask_token_id

    @torch.inference_mode()
    def __call__(self, hidden_RH: torch.Tensor, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """Samples every wanted row.

        Args:
            hidden_RH: hidden states of the wanted rows, request by request.
            requests: in the order of the rows.

        Returns:
            One result per request. If a request's logits are not finite, its confidences are NaN.
        """
        rows = [_Row(request, index) for request in requests for index in range(len(request.chunk.rows))]
        if not rows:
            return [Sampled([], [], []) for _ in requests]
        kept: dict[int, list[object]] = {}
        passes = [
            self._draw(hidden_RH[start : start + ROWS_PER_PASS], rows[start : start + ROWS_PER_PASS], kept)
            for start in range(0, len(rows), ROWS_PER_PASS)
        ]
        tokens = torch.cat([drawn.tokens for drawn in passes])
        confidences = torch.cat([drawn.confidences for drawn in passes])
        logprobs = torch.cat([drawn.logprobs for drawn in passes])
        forced = torch.cat([drawn.forced_logprobs for drawn in passes])
        selected = self._select(tokens, confidences, requests)
        table = torch.stack([column.double() for column in (tokens, confidences, logprobs, forced, selected)])
        host = table.tolist()  # the only point in a step where the host waits for the device
        return _split(host, requests, kept)

    def _draw(self, hidden: torch.Tensor, rows: Sequence[_Row], kept: dict[int, list[object]]) -> _Drawn:
        logits = self.head(hidden)
        peak, total = softmax_total(logits)
        raw = logits
        if any(row.request.chunk.history is not None for row in rows):
            raw = logits.clone()
            apply_repetition_penalty(logits, [_penalty(row) for row in rows])
        logits[:, self._mask_token_id] = float("-inf")
        tokens = argmax(logits)
        sampled_rows = [i for i, row in enumerate(rows) if row.request.params.temperature > 0]
        tempered = None
        if sampled_rows:
            index = torch.tensor(sampled_rows, device=logits.device)
            probs = filtered_probs(logits[index], [rows[i].request.params for i in sampled_rows])
            drawn = _draw_tokens(probs, [rows[i] for i in sampled_rows])
            tokens = tokens.index_copy(0, index, drawn)
            tempered = probs.gather(1, drawn.unsqueeze(1)).squeeze(1)
            for place, i in enumerate(sampled_rows):
                if rows[i].request.chunk.keep_distribution:
                    kept.setdefault(id(rows[i].request), []).append(probs[place])
        below_peak = raw.gather(1, tokens.unsqueeze(1)).squeeze(1) - peak
        confidences = below_peak.exp() / total
        logprobs = below_peak - total.log()
        if tempered is not None:
            by_tempered = [
                place for place, i in enumerate(sampled_rows) if rows[i].request.chunk.confidence is Confidence.TEMPERED
            ]
            if by_tempered:
                source = torch.tensor(by_tempered, device=logits.device)
                target = torch.tensor([sampled_rows[place] for place in by_tempered], device=logits.device)
                confidences = confidences.index_copy(0, target, tempered[source].to(confidences.dtype))
        return _Drawn(tokens, confidences, logprobs, _forced_logprobs(raw, peak + total.log(), rows))

    def _select(
        self, tokens: torch.Tensor, confidences: torch.Tensor, requests: Sequence[SampleRequest]
    ) -> torch.Tensor:
        """Returns the decisions as float32 `[R]`: 1 for a row to commit, the accepted count in every row of a verify
        chunk, 0 elsewhere."""
        selected = torch.zeros_like(confidences)
        for kind in (Commit, Verify):
            chosen: list[tuple[int, SampleRequest]] = []
            start = 0
            for request in requests:
                if isinstance(request.chunk.selection, kind) and request.chunk.rows:
                    chosen.append((start, request))
                start += len(request.chunk.rows)
            if not chosen:
                continue
            flat, place = _places(chosen, tokens.device)
            values = (_commit if kind is Commit else _verify)(tokens, confidences, chosen, flat, place)
            selected = selected.index_copy(0, flat, values.to(selected.dtype))
        return selected


@dataclass(frozen=True, slots=True)
class _Padding:
    """Places of the flat rows of some chunks in a padded `[C, B]` table."""

    chunk: torch.Tensor
    column: torch.Tensor
    shape: tuple[int, int]

    def pad(self, values: torch.Tensor, fill: float) -> torch.Tensor:
        table = torch.full(self.shape, fill, dtype=values.dtype, device=values.device)
        return table.index_put((self.chunk, self.column), values)

    def unpad(self, table: torch.Tensor) -> torch.Tensor:
        return table[self.chunk, self.column]


def _places(chosen: Sequence[tuple[int, SampleRequest]], device: torch.device) -> tuple[torch.Tensor, _Padding]:
    flat: list[int] = []
    chunk: list[int] = []
    column: list[int] = []
    for number, (start, request) in enumerate(chosen):
        count = len(request.chunk.rows)
        flat += range(start, start + count)
        chunk += [number] * count
        column += range(count)
    shape = (len(chosen), max(column) + 1)
    padding = _Padding(int64(chunk).to(device), int64(column).to(device), shape)
    return int64(flat).to(device), padding


def _commit(
    tokens: torch.Tensor,  # noqa: ARG001 -- same signature as _verify
    confidences: torch.Tensor,
    chosen: Sequence[tuple[int, SampleRequest]],
    flat: torch.Tensor,
    place: _Padding,
) -> torch.Tensor:
    rules = [request.chunk.selection for _, request in chosen]
    thresholds = torch.tensor([rule.threshold for rule in rules if isinstance(rule, Commit)], device=flat.device)
    num_best = torch.tensor([rule.num_best for rule in rules if isinstance(rule, Commit)], device=flat.device)
    masked = place.pad(torch.ones_like(flat), 0).bool()
    return place.unpad(confidence_commit(place.pad(confidences[flat], 0.0), masked, thresholds, num_best))


def _verify(
    tokens: torch.Tensor,
    confidences: torch.Tensor,  # noqa: ARG001 -- same signature as _commit
    chosen: Sequence[tuple[int, SampleRequest]],
    flat: torch.Tensor,
    place: _Padding,
) -> torch.Tensor:
    blocks = [rule.block for _, request in chosen if isinstance(rule := request.chunk.selection, Verify)]
    lengths = torch.tensor([len(block) for block in blocks], device=flat.device)
    block = place.pad(int64(token for block in blocks for token in block).to(flat.device), -1)
    accepted = prefix_verify(place.pad(tokens[flat], -2), block, lengths)
    return accepted[place.chunk]


def _penalty(row: _Row) -> tuple[float, Sequence[int]]:
    """Returns a row's repetition penalty and the tokens it acts on. A verified row has the drafts before it as past."""
    chunk = row.request.chunk
    if chunk.history is None:
        return 1.0, ()
    past = chunk.history
    if isinstance(chunk.selection, Verify):
        past = [*past, *chunk.selection.block[1 : chunk.rows[row.index] + 1]]
    return row.request.params.repetition_penalty, past


def _forced_logprobs(raw: torch.Tensor, log_total: torch.Tensor, rows: Sequence[_Row]) -> torch.Tensor:
    """Returns the log-probability of each row's forced token, 0 in rows without one."""
    forced = [(i, token) for i, row in enumerate(rows) if (token := row.request.chunk.forced_token) is not None]
    result = torch.zeros_like(log_total)
    if not forced:
        return result
    index, tokens = (int64(column).to(raw.device) for column in zip(*forced, strict=True))
    return result.index_copy(0, index, raw[index, tokens] - log_total[index])


def _draw_tokens(probs: torch.Tensor, rows: Sequence[_Row]) -> torch.Tensor:
    """Draws one token per row of `probs` `[rows, V]`.

    Verified rows with a proposal are drawn by speculative rejection sampling (Leviathan et al., arXiv 2211.17192; Chen
    et al., arXiv 2302.01318).
    """
    device = probs.device
    numbers = torch.tensor([row.uniform(row.request.chunk.purpose) for row in rows], dtype=torch.double, device=device)
    speculated, drafts, proposals = [], [], []
    for place, row in enumerate(rows):
        rule = row.request.chunk.selection
        if isinstance(rule, Verify) and rule.proposals is not None and row.index < len(rule.proposals):
            speculated.append(place)
            drafts.append(rule.block[row.index + 1])
            proposals.append(rule.proposals[row.index])
    if not speculated:
        return draw(probs, numbers)
    at = torch.tensor(speculated, device=device)
    draft = torch.tensor(drafts, device=device)
    q = torch.stack([proposal for proposal in proposals if isinstance(proposal, torch.Tensor)])
    p = probs[at]
    chance = torch.tensor([rows[i].uniform("accept") for i in speculated], dtype=torch.double, device=device)
    p_draft = p.gather(1, draft.unsqueeze(1)).squeeze(1)
    q_draft = q.gather(1, draft.unsqueeze(1)).squeeze(1)
    corrected = draw(residual(p, q), numbers[at])
    return draw(probs, numbers).index_copy(0, at, torch.where(chance * q_draft < p_draft, draft, corrected))


def _split(host: list[list[float]], requests: Sequence[SampleRequest], kept: dict[int, list[object]]) -> list[Sampled]:
    results = []
    start = 0
    for request in requests:
        end = start + len(request.chunk.rows)
        tokens, confidences, logprobs, forced, selected = (column[start:end] for column in host)
        sampled = Sampled([int(token) for token in tokens], confidences, logprobs)
        if request.chunk.forced_token is not None:
            sampled.forced_logprobs = forced
        if isinstance(request.chunk.selection, Commit):
            sampled.committed = [value > 0 for value in selected]
        elif isinstance(request.chunk.selection, Verify):
            sampled.accepted = int(selected[0])
        sampled.distributions = kept.get(id(request), [])
        results.append(sampled)
        start = end
    return results
