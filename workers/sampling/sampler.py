"""Turns hidden states of many chunks into tokens, confidences, and the commits or acceptance the chunks asked for.

All wanted rows are sampled together and reach the host in one transfer. In between, the host never waits.
R = wanted rows, H = hidden, V = vocabulary, C = chunks that ask for a selection, B = rows of the longest of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from trimode.core.field_rules import MAX_TOP_LOGPROBS
from trimode.kernels.best_token import best_token
from trimode.kernels.confidence_commit import confidence_commit
from trimode.kernels.draw import draw, replace_rejected
from trimode.kernels.packing import Download, upload
from trimode.kernels.prefix_verify import prefix_verify
from trimode.workers.decode.chunk import Commit, Sampled, Verify
from trimode.workers.sampling.distributions import Filters, Penalties, apply_penalties, filtered_probs
from trimode.workers.sampling.greedy import rate
from trimode.workers.sampling.plan import Pass, SampleRequest, SamplingPlan, plan_sampling

Numbers = Mapping[str, torch.Tensor]
"""The arrays of a plan on the device."""


@dataclass(slots=True)
class _Drawn:
    """Result of one pass. All tensors are `[rows]`."""

    tokens: torch.Tensor
    confidences: torch.Tensor
    logprobs: torch.Tensor
    forced_logprobs: torch.Tensor
    """Of each row's target, else of its chunk's forced token; 0 where there is neither."""


@dataclass(slots=True)
class Sampling:
    """The samples of a step, on their way to the host."""

    plan: SamplingPlan
    tokens_R: torch.Tensor | None
    """int64 on the device, for a next step that is launched before these samples are read. None without rows."""
    table: Download | None
    """float64, `[5, R]` flat: tokens, confidences, log-probabilities, those of targets and forced tokens, decisions.
    Behind that `[2, num_tops, K]`: the most probable tokens of rows that ask for them, and their log-probabilities."""
    kept: dict[int, list[object]]
    """The distributions that requests asked for, by the request's index."""

    def collect(self) -> list[Sampled]:
        """Waits for the device. Returns one result per request of the plan."""
        num_rows, num_tops = self.plan.num_rows, self.plan.num_tops
        if self.table is None:
            return _split([[]] * 5, [], self.plan.requests, self.kept)
        flat = self.table.wait()
        host = flat[: 5 * num_rows].view(5, num_rows).tolist()
        tops = flat[5 * num_rows :].view(2, num_tops, -1).tolist() if num_tops else [[], []]
        pairs = [list(zip(map(int, ids), values, strict=True)) for ids, values in zip(*tops, strict=True)]
        return _split(host, pairs, self.plan.requests, self.kept)


class Sampler:
    """Samples the tokens of one model. Never samples the mask token."""

    def __init__(self, head: Callable[[torch.Tensor], torch.Tensor], mask_token_id: int) -> None:
        self.head = head
        """Hidden states `[R, H]` to logits `[R, V]`, which the sampler may overwrite."""
        self._mask_token_id = mask_token_id

    def __call__(self, hidden_RH: torch.Tensor, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """Samples every wanted row and waits for the result.

        Args:
            hidden_RH: hidden states of the wanted rows, request by request.
            requests: in the order of the rows.

        Returns:
            One result per request. If a request's logits are not finite, its confidences are NaN.
        """
        plan = plan_sampling(requests)
        inputs = array("q", [request.chunk.token_ids[row] for request in requests for row in request.chunk.rows])
        numbers = upload({**plan.arrays, "inputs_R": inputs}, hidden_RH.device)
        return self.launch(hidden_RH, plan, numbers, numbers["inputs_R"]).collect()

    @torch.inference_mode()
    def launch(
        self, hidden_RH: torch.Tensor, plan: SamplingPlan, numbers: Numbers, inputs_R: torch.Tensor | None
    ) -> Sampling:
        """Samples every wanted row without waiting for the device.

        Args:
            hidden_RH: hidden states of the wanted rows, request by request.
            plan: of these requests.
            numbers: the plan's arrays on the device.
            inputs_R: int64, the token that stands at each wanted row; needed if `plan.reads_inputs`.
        """
        if not plan.num_rows:
            return Sampling(plan, None, None, {})
        kept: dict[int, list[object]] = {}
        tops: list[torch.Tensor] = []
        passes = []
        for part in plan.passes:
            drawn, top = self._draw(hidden_RH, plan, part, numbers, inputs_R, kept)
            passes.append(drawn)
            tops += [] if top is None else [top]
        tokens, confidences, logprobs, forced = (
            torch.cat([getattr(drawn, name) for drawn in passes]) if len(passes) > 1 else getattr(passes[0], name)
            for name in _Drawn.__slots__
        )
        selected = _select(tokens, confidences, inputs_R, plan, numbers)
        table = torch.stack([column.double() for column in (tokens, confidences, logprobs, forced, selected)])
        flat = table.flatten()
        if tops:
            flat = torch.cat([flat, torch.cat(tops, dim=1).flatten()])
        return Sampling(plan, tokens, Download(flat), kept)

    def _draw(
        self,
        hidden_RH: torch.Tensor,
        plan: SamplingPlan,
        part: Pass,
        numbers: Numbers,
        inputs_R: torch.Tensor | None,
        kept: dict[int, list[object]],
    ) -> tuple[_Drawn, torch.Tensor | None]:
        logits = self.head(hidden_RH[part.rows])
        tokens, _, peak, total = best_token(logits, suppressed=self._mask_token_id)
        raw = logits
        if _any(part.penalties):
            logits = raw.clone()
            names = ("penalty_row", "penalty_token", "bias", "penalty", "taken")
            apply_penalties(logits, Penalties(*(numbers[name][part.penalties] for name in names)))
            tokens = best_token(logits, suppressed=self._mask_token_id).tokens_R
        tempered = None
        if _any(part.sampled):
            index = numbers["sampled_row"][part.sampled]
            allowed = logits[index]
            allowed.select(1, self._mask_token_id).fill_(float("-inf"))
            probs = filtered_probs(allowed, numbers["temperature"][part.sampled], _filters(part, numbers))
            drawn = _draw_tokens(probs, plan, part, numbers, inputs_R)
            tokens = tokens.index_copy(0, index, drawn)
            tempered = probs.gather(1, drawn.unsqueeze(1)).squeeze(1)
            for place, request in part.kept:
                kept.setdefault(request, []).append(probs[place])
        confidences, logprobs = rate(raw, tokens, peak, total)
        if tempered is not None and _any(part.tempered):
            source, target = (numbers[name][part.tempered] for name in ("tempered_place", "tempered_row"))
            confidences = confidences.index_copy(0, target, tempered[source].to(confidences.dtype))
        forced = torch.zeros_like(total)
        if _any(part.forced):
            row, token = numbers["forced_row"][part.forced], numbers["forced_token"][part.forced]
            forced = forced.index_copy(0, row, (raw[row, token] - peak[row]) - total[row].log())
        drawn_pass = _Drawn(tokens, confidences, logprobs, forced)
        if not _any(part.tops):
            return drawn_pass, None
        row = numbers["top_row"][part.tops]
        return drawn_pass, self._most_probable(raw[row], peak[row], total[row])

    def _most_probable(self, logits_RV: torch.Tensor, peak_R: torch.Tensor, total_R: torch.Tensor) -> torch.Tensor:
        """Returns the most probable tokens of rows and their log-probabilities, float64 `[2, R, K]`.

        K does not depend on what is asked for, so that a row's result does not depend on the other rows. The logits are
        changed.
        """
        logits_RV.select(1, self._mask_token_id).fill_(float("-inf"))
        values, tokens = logits_RV.topk(min(MAX_TOP_LOGPROBS, logits_RV.shape[1]), dim=1)
        logprobs = (values - peak_R.unsqueeze(1)) - total_R.log().unsqueeze(1)
        return torch.stack([tokens.double(), logprobs.double()])


def _any(part: slice) -> bool:
    return bool(part.start < part.stop)


def _filters(part: Pass, numbers: Numbers) -> Filters | None:
    return Filters(*(numbers[name][part.sampled] for name in Filters._fields)) if part.filtered else None


def _select(
    tokens: torch.Tensor,
    confidences: torch.Tensor,
    inputs_R: torch.Tensor | None,
    plan: SamplingPlan,
    numbers: Numbers,
) -> torch.Tensor:
    """Returns the decisions as float32 `[R]`: 1 for a row to commit, the accepted count in every row of a verify chunk,
    0 elsewhere."""
    if not plan.width:
        return torch.zeros_like(confidences)
    column = torch.arange(plan.width, device=tokens.device)
    first, count = numbers["first_C"], numbers["count_C"]
    inside_CB = column < count.unsqueeze(1)
    at_CB = (first.unsqueeze(1) + column).clamp_max(tokens.shape[0] - 1)
    decided_CB = torch.zeros(at_CB.shape, dtype=torch.float32, device=tokens.device)
    if plan.commits:
        threshold, num_best = numbers["threshold_C"], numbers["num_best_C"]
        decided_CB = confidence_commit(confidences[at_CB], inside_CB, threshold, num_best).float()
    if plan.verifies:
        assert inputs_R is not None
        accepted_C1 = prefix_verify(tokens[at_CB], inputs_R[at_CB], count).float().unsqueeze(1)
        decided_CB = torch.where(numbers["is_verify_C"].unsqueeze(1) > 0, accepted_C1, decided_CB)
    place_R = numbers["place_R"]
    return torch.where(place_R > 0, decided_CB.flatten()[(place_R - 1).clamp_min(0)], 0.0)


def _draw_tokens(
    probs: torch.Tensor, plan: SamplingPlan, part: Pass, numbers: Numbers, inputs_R: torch.Tensor | None
) -> torch.Tensor:
    """Draws one token per row of `probs` `[rows, V]`.

    Verified rows with a proposal are drawn by speculative rejection sampling (Leviathan et al., arXiv 2211.17192; Chen
    et al., arXiv 2302.01318).
    """
    uniform = numbers["number"][part.sampled]
    if not _any(part.drafts):
        return draw(probs, uniform)
    assert inputs_R is not None
    at, chance = numbers["draft_place"][part.drafts], numbers["chance"][part.drafts]
    draft = inputs_R[numbers["draft_at"][part.drafts]]
    q = torch.stack([proposal for proposal in plan.proposals[part.drafts] if isinstance(proposal, torch.Tensor)])
    return draw(probs, uniform).index_copy(0, at, replace_rejected(probs[at], q, draft, chance, uniform[at]))


def _split(
    host: list[list[float]],
    tops: list[list[tuple[int, float]]],
    requests: Sequence[SampleRequest],
    kept: dict[int, list[object]],
) -> list[Sampled]:
    results = []
    start = first_top = 0
    floats, confidences, logprobs, forced, selected = host
    tokens = list(map(int, floats))
    for number, request in enumerate(requests):
        chunk = request.chunk
        end = start + len(chunk.rows)
        sampled = Sampled(tokens[start:end], confidences[start:end], logprobs[start:end])
        num_targets = len(chunk.targets)
        if num_targets:
            sampled.logprobs[:num_targets] = forced[start : start + num_targets]
        if chunk.forced_token is not None:
            sampled.forced_logprobs = forced[start:end]
        if chunk.num_top:
            rows = tops[first_top : first_top + end - start]
            # equal ones by their ids, whatever order the device gave them
            sampled.tops = [tuple(sorted(row, key=lambda pair: (-pair[1], pair[0])))[: chunk.num_top] for row in rows]
            first_top += end - start
        if isinstance(chunk.selection, Commit):
            sampled.committed = [value > 0 for value in selected[start:end]]
        elif isinstance(chunk.selection, Verify):
            sampled.accepted = int(selected[start])
        if number in kept:
            sampled.distributions = kept[number]
        results.append(sampled)
        start = end
    return results
