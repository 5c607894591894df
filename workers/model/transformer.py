"""The tri-mode transformer: one ragged forward over a paged KV cache, causal or full per row, adapter per row.

Knows tensors and page tables; knows nothing of requests, modes, sampling or files beyond the weights it loads.
T = tokens of the step, H = hidden, R = wanted logit rows, D = head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from trimode.kernels.paged_attention import attends, masked_attention, paged_attention, visible_keys
from trimode.kernels.rms_norm import rms_norm
from trimode.kernels.rope import apply_rope, query_scale, rope_cos_sin, rotate_and_store, rotates, yarn_inv_freq
from trimode.kernels.silu_mul import silu_mul
from trimode.workers.model.adapter import Adapter
from trimode.workers.model.batch import AttentionGroup, Batch
from trimode.workers.model.checkpoint import ModelConfig, WeightFiles
from trimode.workers.model.kv_cache import KVCache
from trimode.workers.model.linear import Linear
from trimode.workers.model.memory import tune_allocator


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; q, k, v and gate, up are fused."""

    input_norm: torch.Tensor
    qkv: Linear
    """`[(heads + 2 * kv_heads) * head_dim, H]`."""
    o: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    """`[2 * intermediate, H]`."""
    down: Linear


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
        self._head = Linear(load("diffusion_head.weight"))
        self.layers = []
        for number in range(config.num_layers):
            at = f"encoder.layers.{number}."
            attn, mlp = f"{at}self_attn.", f"{at}mlp."
            self.layers.append(
                Layer(
                    input_norm=load(f"{at}input_layernorm.weight"),
                    qkv=Linear(load(f"{attn}q_proj.weight", f"{attn}k_proj.weight", f"{attn}v_proj.weight")),
                    o=Linear(load(f"{attn}o_proj.weight")),
                    post_norm=load(f"{at}post_attention_layernorm.weight"),
                    gate_up=Linear(load(f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight")),
                    down=Linear(load(f"{mlp}down_proj.weight")),
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
        weights: list[torch.Tensor | Linear] = [self.embedding, self.norm, self._head]
        for layer in self.layers:
            weights += [layer.input_norm, layer.qkv, layer.o, layer.post_norm, layer.gate_up, layer.down]
        return sum(weight.nbytes for weight in weights)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        """Runs one ragged step and writes its K and V at the batch's slots.

        Returns:
            Normalised hidden states of the wanted rows, `[R, H]`.
        """
        rotation = self._rotation(batch)
        # Our CPU kernels read pages where they lie; elsewhere keys are gathered, and masks made once for all layers.
        paged = attends(cache.layer(0))
        masks = [None if paged else self._mask(group) for group in batch.groups]
        x_TH = F.embedding(batch.token_ids_T, self.embedding)
        for number, layer in enumerate(self.layers):
            h_TH = rms_norm(x_TH, layer.input_norm, self.config.rms_norm_eps)
            q_THD = self._query(layer.qkv(h_TH), number, rotation, batch, cache)
            attended = []
            for group, mask in zip(batch.groups, masks, strict=True):
                end = group.first_token + group.num_rows * group.num_queries
                q_NTHD = q_THD if len(batch.groups) == 1 else q_THD[group.first_token : end]
                q_NTHD = q_NTHD.view(group.num_rows, group.num_queries, *q_THD.shape[1:])
                if paged:
                    attended.append(self._attend_paged(q_NTHD, cache.layer(number), group))
                else:
                    attended.append(self._attend(q_NTHD, number, group, mask, cache))
            o_TA = attended[0] if len(attended) == 1 else torch.cat(attended)
            x_TH = self._adapt(layer.o(o_TA, x_TH), o_TA, number, batch)
            h_TH = rms_norm(x_TH, layer.post_norm, self.config.rms_norm_eps)
            x_TH = layer.down(silu_mul(layer.gate_up(h_TH)), x_TH)
        return rms_norm(x_TH[batch.logit_rows_R], self.norm, self.config.rms_norm_eps)

    @torch.inference_mode()
    def head(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Logits `[R, vocab]` in float32."""
        return self._head(hidden_RH).float()

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

    def _query(
        self, qkv_TJ: torch.Tensor, number: int, rotation: Rotation, batch: Batch, cache: KVCache
    ) -> torch.Tensor:
        """Queries `[T, heads, D]` of a layer, rotated; keys and values go into the cache."""
        config = self.config
        heads, kv_heads = config.num_heads, config.num_kv_heads
        qkv = qkv_TJ.view(-1, heads + 2 * kv_heads, config.head_dim)
        if rotates(qkv, cache.slots(number)):
            rotate_and_store(qkv, rotation.cos, rotation.sin, cache.slots(number), batch.slots_T)
        else:
            rotated = qkv[:, : heads + kv_heads]
            apply_rope(rotated, rotation.cos, rotation.sin, out=rotated)
            cache.slots(number).index_copy_(0, batch.slots_T, qkv[:, heads:])
        q_THD = qkv[:, :heads]
        return q_THD if rotation.query_scale is None else q_THD * rotation.query_scale

    def _attend_paged(self, q_NTHD: torch.Tensor, kv_PSKD: torch.Tensor, group: AttentionGroup) -> torch.Tensor:
        scale = self.config.head_dim**-0.5
        return paged_attention(q_NTHD, kv_PSKD, group.pages, group.last_key, group.num_keys, scale)

    def _attend(
        self, q_NTHD: torch.Tensor, number: int, group: AttentionGroup, mask: torch.Tensor | None, cache: KVCache
    ) -> torch.Tensor:
        """Attention of one group: `[rows * queries, heads * head_dim]`."""
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
            return y_TH + b(a(o_TA)) * scale
        return y_TH.index_add(0, batch.lora_rows, b(a(o_TA[batch.lora_rows])) * scale)
