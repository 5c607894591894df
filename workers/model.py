"""The tri-mode transformer: one ragged forward over a paged KV cache, causal or full per row, adapter per row.

Knows tensors and page tables; knows nothing of requests, modes, sampling or files beyond the weights it loads.
T = tokens of the step, H = hidden, R = wanted logit rows, D = head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from trimode.kernels.block_attention import masked_attention, visible_keys
from trimode.kernels.rms_norm import rms_norm
from trimode.kernels.rope import apply_rope, query_scale, rope_cos_sin, yarn_inv_freq
from trimode.workers.adapter import Adapter
from trimode.workers.batch import AttentionGroup, Batch
from trimode.workers.checkpoint import ModelConfig, WeightFiles
from trimode.workers.kv_cache import KVCache
from trimode.workers.linear import add_linear, linear, pack_weight, tune_allocator


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; q, k, v and gate, up are stored fused; those of `linear` are packed."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    """`[(heads + 2 * kv_heads) * head_dim, H]`."""
    o: torch.Tensor
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    """`[2 * intermediate, H]`."""
    down: torch.Tensor


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary tables of one step `[T, D]`, in the activation dtype."""

    cos: torch.Tensor
    sin: torch.Tensor
    query_scale: torch.Tensor | None
    """`[T, 1, 1]`; None when it is 1 everywhere."""


class TriModeModel:
    """Holds the weights of one checkpoint on one device."""

    def __init__(self, config: ModelConfig, files: WeightFiles, dtype: torch.dtype, device: torch.device) -> None:
        """Loads every tensor once; `files` has been checked against the config."""
        if device.type == "cpu":
            tune_allocator()
        self.config = config
        self.dtype = dtype
        self.device = device
        self.adapter: Adapter | None = None

        def load(*names: str) -> torch.Tensor:
            rows = [files.shapes[name][0] for name in names]
            shape = (sum(rows), *files.shapes[names[0]][1:])
            target = torch.empty(shape, dtype=dtype, device=device)
            for part, name in zip(target.split(rows), names, strict=True):
                part.copy_(files.tensor(name))
            return target

        self.embedding = load("encoder.embed_tokens.weight")
        self.norm = load("encoder.norm.weight")
        self.head_weight = pack_weight(load("diffusion_head.weight"))
        self.layers = []
        for number in range(config.num_layers):
            at = f"encoder.layers.{number}."
            attn, mlp = f"{at}self_attn.", f"{at}mlp."
            self.layers.append(
                Layer(
                    input_norm=load(f"{at}input_layernorm.weight"),
                    qkv=pack_weight(load(f"{attn}q_proj.weight", f"{attn}k_proj.weight", f"{attn}v_proj.weight")),
                    o=pack_weight(load(f"{attn}o_proj.weight")),
                    post_norm=load(f"{at}post_attention_layernorm.weight"),
                    gate_up=pack_weight(load(f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight")),
                    down=pack_weight(load(f"{mlp}down_proj.weight")),
                )
            )
        rope = config.rope
        self._inv_freq = yarn_inv_freq(
            config.head_dim,
            rope.theta,
            rope.factor or 1.0,
            rope.original_max_positions,
            rope.beta_fast,
            rope.beta_slow,
        ).to(device)

    @property
    def num_weight_bytes(self) -> int:
        """Bytes of all weights on the device."""
        tensors = [self.embedding, self.norm, self.head_weight]
        for layer in self.layers:
            tensors += [layer.input_norm, layer.qkv, layer.o, layer.post_norm, layer.gate_up, layer.down]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        """Runs one ragged step and writes its K and V at the batch's slots.

        Returns:
            Normalised hidden states of the wanted rows, `[R, H]`.
        """
        rotation = self._rotation(batch)
        masks = [self._mask(group) for group in batch.groups]
        x_TH = F.embedding(batch.token_ids_T, self.embedding)
        for number, layer in enumerate(self.layers):
            h_TH = rms_norm(x_TH, layer.input_norm, self.config.rms_norm_eps)
            q_THD = self._query(h_TH, number, rotation, batch, cache)
            attended = [
                self._attend(q_THD, number, group, mask, cache) for group, mask in zip(batch.groups, masks, strict=True)
            ]
            o_TA = attended[0] if len(attended) == 1 else torch.cat(attended)
            x_TH = self._adapt(add_linear(x_TH, o_TA, layer.o), o_TA, number, batch)
            h_TH = rms_norm(x_TH, layer.post_norm, self.config.rms_norm_eps)
            gate, up = linear(h_TH, layer.gate_up).chunk(2, dim=-1)
            x_TH = add_linear(x_TH, F.silu(gate).mul_(up), layer.down)
        return rms_norm(x_TH[batch.logit_rows_R], self.norm, self.config.rms_norm_eps)

    @torch.inference_mode()
    def head(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Logits `[R, vocab]` in float32."""
        return linear(hidden_RH, self.head_weight).float()

    def _rotation(self, batch: Batch) -> Rotation:
        rope = self.config.rope
        cos, sin = rope_cos_sin(batch.positions_T, self._inv_freq, rope.attention_factor)
        cos, sin = cos.to(self.dtype), sin.to(self.dtype)
        if not rope.query_scale_beta or batch.num_positions <= rope.original_max_positions:
            return Rotation(cos, sin, None)
        scale = query_scale(batch.positions_T, rope.query_scale_beta, rope.original_max_positions)
        return Rotation(cos, sin, scale.to(self.dtype).view(-1, 1, 1))

    def _mask(self, group: AttentionGroup) -> torch.Tensor | None:
        if group.last_key is None:
            return None
        heads_per_kv = self.config.num_heads // self.config.num_kv_heads
        return visible_keys(group.last_key, group.num_keys, heads_per_kv, self.dtype)

    def _query(self, h_TH: torch.Tensor, number: int, rotation: Rotation, batch: Batch, cache: KVCache) -> torch.Tensor:
        """Queries `[T, heads, D]` of a layer, rotated; keys and values go into the cache."""
        config = self.config
        heads, kv_heads = config.num_heads, config.num_kv_heads
        qkv = linear(h_TH, self.layers[number].qkv).view(-1, heads + 2 * kv_heads, config.head_dim)
        rotated = qkv[:, : heads + kv_heads]
        apply_rope(rotated, rotation.cos, rotation.sin, out=rotated)
        cache.write(number, batch.slots_T, qkv[:, heads:])
        q_THD = qkv[:, :heads]
        return q_THD if rotation.query_scale is None else q_THD * rotation.query_scale

    def _attend(
        self, q_THD: torch.Tensor, number: int, group: AttentionGroup, mask: torch.Tensor | None, cache: KVCache
    ) -> torch.Tensor:
        """Attention of one group: `[rows * queries, heads * head_dim]`."""
        end = group.first_token + group.num_rows * group.num_queries
        q_NTHD = q_THD[group.first_token : end].unflatten(0, (group.num_rows, group.num_queries))
        if group.first_page is not None:
            kv_NSKD = cache.run(number, group.first_page, group.pages.shape[1])
        else:
            kv_NSKD = cache.gather(number, group.pages)
        k_NSKD, v_NSKD = kv_NSKD[:, : group.num_keys].chunk(2, dim=2)
        return masked_attention(q_NTHD, k_NSKD, v_NSKD, mask, self.config.head_dim**-0.5).flatten(0, 1)

    def _adapt(self, y_TH: torch.Tensor, o_TA: torch.Tensor, number: int, batch: Batch) -> torch.Tensor:
        if self.adapter is None or batch.lora_rows is None:
            return y_TH
        a, b, scale = self.adapter.a[number], self.adapter.b[number], self.adapter.scale
        if batch.lora_all:
            return y_TH + F.linear(F.linear(o_TA, a), b) * scale
        delta = F.linear(F.linear(o_TA[batch.lora_rows], a), b) * scale
        return y_TH.index_add(0, batch.lora_rows, delta)


def _keys(pool: torch.Tensor, group: AttentionGroup) -> torch.Tensor:
    """K or V of a group's rows `[N, num_keys, kv_heads, head_dim]`: a view if the pages are one run, else a gather."""
    if group.first_page is not None:
        pages = pool[group.first_page : group.first_page + group.pages.shape[1]].unsqueeze(0)
    else:
        pages = pool[group.pages]
    return pages.reshape(group.num_rows, -1, *pool.shape[2:])[:, : group.num_keys]
