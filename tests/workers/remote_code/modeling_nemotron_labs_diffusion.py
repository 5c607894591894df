"""A stand-in for the released remote code: the surface and the rules of its decoders, in our own words, plainly.

Written for the tests from the published description; not the released file. It shares nothing with the native engine,
so that agreement between the two says something. Batch 1, greedy. It crops its cache by the length to keep, as the
released code does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from .configuration_nemotron_labs_diffusion import NemotronLabsDiffusionConfig


class Norm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt())


class Attention(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig, number: int) -> None:
        super().__init__()
        self.number, self.config = number, config
        self.heads, self.kv_heads, self.dim = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        )  # fmt: skip
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, config.hidden_size, bias=False)
        self.diffusion_lm = False

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x: [1, heads, T, dim]. Pairs (i, i + dim/2) turn by position * frequency i."""
        rope = self.config.rope_parameters
        half = self.dim // 2
        theta, old = rope["rope_theta"], rope["original_max_position_embeddings"]

        def edge(turns: float) -> float:
            return self.dim * math.log(old / (2 * math.pi * turns)) / (2 * math.log(theta))

        low, high = max(math.floor(edge(rope["beta_fast"])), 0), min(math.ceil(edge(rope["beta_slow"])), self.dim - 1)
        i = torch.arange(half, dtype=torch.float32)
        plain = theta ** (-i / half)
        mix = ((i - low) / (high - low)).clamp(0, 1)
        frequency = plain * (1 - mix) + plain / rope["factor"] * mix
        angle = positions.float()[:, None] * frequency[None, :]
        cos, sin = angle.cos(), angle.sin()
        left, right = x[..., :half], x[..., half:]
        return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)

    def forward(self, x: Tensor, cache: DynamicCache, use_cache: bool) -> Tensor:
        count = x.shape[1]

        def split(y: Tensor, heads: int) -> Tensor:
            return y.view(1, count, heads, self.dim).transpose(1, 2)

        past = cache.get_seq_length(self.number)
        positions = torch.arange(past, past + count)
        q = self.rotate(split(self.q_proj(x), self.heads), positions)
        k = self.rotate(split(self.k_proj(x), self.kv_heads), positions)
        v = split(self.v_proj(x), self.kv_heads)
        rope = self.config.rope_parameters
        old = rope["original_max_position_embeddings"]
        q = q * (1 + rope["llama_4_scaling_beta"] * torch.log(1 + torch.floor(positions / old)))[:, None]
        if use_cache:
            k, v = cache.update(k, v, self.number)
        elif past:
            layer = cache.layers[self.number]
            k, v = torch.cat((layer.keys, k), dim=2), torch.cat((layer.values, v), dim=2)
        repeat = self.heads // self.kv_heads
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        scores = q @ k.transpose(2, 3) / math.sqrt(self.dim)
        if not self.diffusion_lm:
            ahead = torch.arange(past + count)[None, :] > positions[:, None]
            scores = scores.masked_fill(ahead, float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, count, -1)
        return self.o_proj(mixed)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        return self.down_proj(gate * gate.sigmoid() * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig, number: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, number)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, cache: DynamicCache, use_cache: bool) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cache, use_cache)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, config: NemotronLabsDiffusionConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)


class NemotronLabsDiffusionModel(PreTrainedModel):
    config_class = NemotronLabsDiffusionConfig

    def __init__(self, config: NemotronLabsDiffusionConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.diffusion_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, ids: Tensor, cache: DynamicCache, *, diffusion: bool = False, use_cache: bool = True) -> Tensor:
        """Logits [T, vocab] of a chunk behind the cache."""
        x = self.encoder.embed_tokens(ids)
        for layer in self.encoder.layers:
            layer.self_attn.diffusion_lm = diffusion
            x = layer(x, cache, use_cache)
        return self.diffusion_head(self.encoder.norm(x))[0]  # type: ignore[no-any-return]

    def adapters(self, on: bool) -> None:
        for module in self.modules():
            if hasattr(module, "_disable_adapters"):
                module._disable_adapters = not on

    def ends(self, eos_token_id: int | None) -> int:
        return int(self.config.eos_token_id if eos_token_id is None else eos_token_id)

    @torch.no_grad()
    def ar_generate(
        self,
        prompt_ids: Tensor,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        eos_token_id: int | None = None,
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
    ) -> tuple[Tensor, int]:
        assert temperature == 0, "the stand-in is greedy"
        cache, output = DynamicCache(), list[int]()
        last = self(prompt_ids, cache)[-1]
        while len(output) < max_new_tokens:
            token = int(last.argmax())
            if max_thinking_tokens is not None and end_think_token_id is not None:
                late = len(output) >= max_thinking_tokens and end_think_token_id not in output
                token = end_think_token_id if late else token
            output.append(token)
            if token == self.ends(eos_token_id):
                break
            if len(output) < max_new_tokens:
                last = self(torch.tensor([[token]]), cache)[-1]
        return torch.cat((prompt_ids, torch.tensor([output])), dim=1), len(output)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        prompt_ids: Tensor,
        max_new_tokens: int,
        block_length: int,
        threshold: float | None = None,
        causal_context: bool = True,
        temperature: float = 0.0,
        eos_token_id: int | None = None,
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
    ) -> tuple[Tensor, int]:
        assert temperature == 0, "the stand-in is greedy"
        assert causal_context
        assert max_new_tokens % block_length == 0
        end, mask = self.ends(eos_token_id), self.config.mask_token_id
        cache, output, nfe = DynamicCache(), list[int](), 0
        seed = int(self(prompt_ids, cache)[-1].argmax())
        while len(output) < max_new_tokens:
            block = torch.full((block_length,), mask)
            block[0] = seed
            budget = None if end_think_token_id is None or end_think_token_id in output else max_thinking_tokens
            if budget is not None and len(output) + block_length > budget:
                block[max(0, budget - len(output))] = end_think_token_id
            for quota in quotas(int((block == mask).sum()), block_length):
                masked = block == mask
                if not masked.any():
                    break
                nfe += 1
                logits = self(block[None], cache, diffusion=True, use_cache=False)
                guess, sure = logits.argmax(-1), logits.softmax(-1).amax(-1)
                order = sure.masked_fill(~masked, -1).argsort(descending=True)
                many = quota if threshold is None else max(1, int((masked & (sure >= threshold)).sum()))
                block[order[:many]] = guess[order[:many]]
                found = (block == end).nonzero()
                if len(found) and not (block[: int(found[0])] == mask).any():
                    break
            nfe += 1
            seed = int(self(block[None], cache)[-1].argmax())
            output += block.tolist()
            if end in output:
                output = output[: output.index(end) + 1]
                break
        return torch.cat((prompt_ids, torch.tensor([output])), dim=1), nfe

    @torch.no_grad()
    def linear_spec_generate(
        self,
        prompt_ids: Tensor,
        max_new_tokens: int = 128,
        block_length: int = 32,
        temperature: float = 0.0,
        mask_token_id: int | None = None,
        eos_token_id: int | None = None,
        max_thinking_tokens: int | None = None,
        end_think_token_id: int | None = None,
        threshold: float = 0.0,
    ) -> tuple[Tensor, int]:
        assert temperature == 0, "the stand-in is greedy"
        assert max_thinking_tokens is None or end_think_token_id is None, "the stand-in has no budget here"
        end = self.ends(eos_token_id)
        mask = self.config.mask_token_id if mask_token_id is None else mask_token_id
        cache = DynamicCache()
        self.adapters(False)
        output, nfe = [int(self(prompt_ids, cache)[-1].argmax())], 1
        while len(output) < max_new_tokens and end not in output:
            block = torch.full((block_length,), mask)
            block[0] = output[-1]
            kept = cache.get_seq_length()
            self.adapters(True)
            while True:
                nfe += 1
                logits = self(block[None], cache, diffusion=True, use_cache=False)
                masked = block == mask
                guess, sure = logits.argmax(-1), logits.softmax(-1).amax(-1).masked_fill(~masked, -1)
                chosen = masked & (sure >= threshold)
                if not chosen.any() and masked.any():
                    chosen[sure.argmax()] = True
                block[chosen] = guess[chosen]
                if not (block == mask).any():
                    break
            self.adapters(False)
            verified = self(block[None], cache).argmax(-1).tolist()
            nfe += 1
            accepted = 1
            while accepted < block_length and verified[accepted - 1] == int(block[accepted]):
                accepted += 1
            output += verified[:accepted]
            cache.crop(kept + accepted)
        if end in output:
            output = output[: output.index(end) + 1]
        return torch.cat((prompt_ids, torch.tensor([output])), dim=1), nfe


def quotas(masked: int, steps: int) -> Iterator[int]:
    """`masked` spread over the steps, the remainder to the earliest."""
    return (masked // steps + (step < masked % steps) for step in range(steps))
