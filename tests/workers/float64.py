"""One request decoded alone in float64 by a plain forward, and how near its decisions were to going the other way.

The state machines are the engine's own; the forward, the sampling and the commit rules are not. Greedy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from trimode.kernels.rope import yarn_inv_freq
from trimode.workers.decode.chunk import Chunk, Commit, Sampled, Verify
from trimode.workers.decode.context import DecodeContext
from trimode.workers.decode.registry import MODES
from trimode.workers.model.checkpoint import read_config
from trimode.workers.params import parse_params


@dataclass(frozen=True)
class Exact:
    """What a request gives in float64."""

    tokens: list[int]
    nfe: int
    trace: list[object] | None
    margin: float
    """The smallest distance of a decision from going the other way: between the best and the second logit of a token
    that was used, between a confidence and the threshold, between the last committed and the first left confidence."""
    confidences: list[float]
    """Of every masked position of every pass."""


class Float64Decoder:
    """The micro checkpoint and its adapter in float64."""

    def __init__(self, folder: Path) -> None:
        self.config = read_config(folder)
        self.weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
        lora = load_file(folder / "linear_spec_lora" / "adapter_model.safetensors")
        self.lora = {name: tensor.double() for name, tensor in lora.items()}
        rope = self.config.rope
        assert rope.factor is not None
        self.inv_freq = yarn_inv_freq(
            self.config.head_dim, rope.theta, rope.factor, rope.original_max_positions, rope.beta_fast, rope.beta_slow
        ).double()

    def decode(self, fields: dict[str, object]) -> Exact:
        """Tokens, nfe, trace and margin of one request."""
        params = parse_params({name: value for name, value in fields.items() if name != "prompt_ids"})
        assert params.temperature == 0
        prompt = fields["prompt_ids"]
        assert isinstance(prompt, list)
        ends = frozenset((*self.config.eos_token_ids, *params.stop_token_ids))
        state = MODES[params.mode](prompt, params, DecodeContext(self.config.mask_token_id, ends, len(prompt)))
        keys: list[Tensor] = [torch.zeros(2, 0, self.config.num_kv_heads, self.config.head_dim).double()]
        keys *= self.config.num_layers
        margin, confidences = math.inf, list[float]()
        while state.finish_reason is None:
            chunk = state.next_chunk()
            logits, keys = self._forward(chunk, keys)
            sampled, distance = self._sample(chunk, logits)
            if isinstance(chunk.selection, Commit):
                confidences += sampled.confidences
            margin = min(margin, distance)
            state.advance(chunk, sampled)
        return Exact(state.tokens(), state.nfe(state.forwards), state.trace, margin, confidences)

    def _forward(self, chunk: Chunk, keys: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits of the wanted rows, and K and V of every layer `[2, positions, kv_heads, head_dim]` with the chunk."""
        config, at = self.config, chunk.position
        count = len(chunk.token_ids)
        positions = torch.arange(at, at + count)
        hidden = self.weights["encoder.embed_tokens.weight"][torch.tensor(chunk.token_ids)]
        grown = []
        for number in range(config.num_layers):
            w = {
                name.removeprefix(f"encoder.layers.{number}."): tensor
                for name, tensor in self.weights.items()
                if name.startswith(f"encoder.layers.{number}.")
            }
            x = self._norm(hidden, w["input_layernorm.weight"])
            q, k, v = (
                F.linear(x, w[f"self_attn.{side}_proj.weight"]).view(count, -1, config.head_dim) for side in "qkv"
            )
            q, k = self._rotate(q, positions), self._rotate(k, positions)
            q = q * (
                1
                + config.rope.query_scale_beta * torch.log1p((positions // config.rope.original_max_positions).double())
            ).view(-1, 1, 1)
            all_kv = torch.cat((keys[number][:, :at], torch.stack((k, v))), dim=1)
            grown.append(all_kv)
            seen = torch.arange(at + count) <= (positions[:, None] if chunk.causal else at + count)
            k, v = all_kv.repeat_interleave(config.num_heads // config.num_kv_heads, dim=2).unbind()
            scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(config.head_dim)
            mixed = torch.einsum("hts,shd->thd", scores.masked_fill(~seen, -math.inf).softmax(-1), v).flatten(1)
            hidden = hidden + F.linear(mixed, w["self_attn.o_proj.weight"])
            if chunk.lora:
                name = f"base_model.model.encoder.layers.{number}.self_attn.o_proj.lora_%s.weight"
                hidden = hidden + 4.0 * F.linear(F.linear(mixed, self.lora[name % "A"]), self.lora[name % "B"])
            x = self._norm(hidden, w["post_attention_layernorm.weight"])
            gated = F.silu(F.linear(x, w["mlp.gate_proj.weight"])) * F.linear(x, w["mlp.up_proj.weight"])
            hidden = hidden + F.linear(gated, w["mlp.down_proj.weight"])
        rows = self._norm(hidden[list(chunk.rows)], self.weights["encoder.norm.weight"])
        return F.linear(rows, self.weights["diffusion_head.weight"]), grown if chunk.keep_kv else keys

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt() * weight

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angle = (positions[:, None] * self.inv_freq)[:, None]
        left, right = x.chunk(2, dim=-1)
        return torch.cat((left * angle.cos() - right * angle.sin(), right * angle.cos() + left * angle.sin()), dim=-1)

    def _sample(self, chunk: Chunk, logits: Tensor) -> tuple[Sampled, float]:
        if not len(logits):
            return Sampled([], [], []), math.inf
        raw = logits.softmax(-1)
        logits[:, self.config.mask_token_id] = -math.inf
        best = logits.topk(2)
        tokens, gaps = best.indices[:, 0], (best.values[:, 0] - best.values[:, 1]).tolist()
        sure = raw.gather(1, tokens[:, None])[:, 0]
        sampled = Sampled(tokens.tolist(), sure.tolist(), sure.log().tolist())
        if isinstance(chunk.selection, Commit):
            sampled.committed, distance = _commit(chunk.selection, sampled.confidences)
            return sampled, min([distance, *(gap for gap, used in zip(gaps, sampled.committed, strict=True) if used)])
        if isinstance(chunk.selection, Verify):
            drafts = list(chunk.token_ids[1:])
            agreed = [token == draft for token, draft in zip(sampled.tokens, drafts, strict=False)]
            sampled.accepted = (agreed.index(False) if False in agreed else len(agreed)) + 1
            gaps = gaps[: sampled.accepted]
        return sampled, min(gaps)


def _commit(rule: Commit, confidences: list[float]) -> tuple[list[bool], float]:
    """Which positions are committed, and the distance to another choice."""
    order = sorted(range(len(confidences)), key=lambda i: -confidences[i])
    forced = set(order[: rule.num_best])
    committed = [i in forced or confidence >= rule.threshold for i, confidence in enumerate(confidences)]
    distance = min(abs(confidence - rule.threshold) for confidence in confidences)
    left = [confidence for confidence, taken in zip(confidences, committed, strict=True) if not taken]
    if left and sum(committed) == rule.num_best:
        distance = min(distance, confidences[order[rule.num_best - 1]] - max(left))
    return committed, distance
