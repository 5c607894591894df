"""The tri-mode transformer: one ragged forward over a paged KV cache, causal or full per row, adapter per row.

T = tokens of the step, H = hidden, R = wanted logit rows, D = head dim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from trimode.kernels import linear
from trimode.kernels.describe import ModelSizes, describe_kernels
from trimode.kernels.linear import Layout, Prepared
from trimode.kernels.paged_attention import paged_attention
from trimode.kernels.rms_norm import rms_norm
from trimode.kernels.rope import query_scale, rope_cos_sin, rotate_and_store, yarn_inv_freq
from trimode.kernels.silu_mul import silu_mul
from trimode.workers.model.adapter import Adapter
from trimode.workers.model.batch import Batch
from trimode.workers.model.checkpoint import ModelConfig, WeightFiles
from trimode.workers.model.kv_cache import PAGE_SIZE, KVCache
from trimode.workers.model.memory import tune_allocator
from trimode.workers.model.quantized import HEAD, LoadOptions, WeightLoader, without_numbers
from trimode.workers.model.recorded import Layer, RecordedLayers, Rotation

PLAIN = LoadOptions()
"""Weights as the checkpoint has them."""


class TriModeModel:
    """Holds the weights of one checkpoint on one device."""

    def __init__(
        self,
        config: ModelConfig,
        files: WeightFiles,
        dtype: torch.dtype,
        device: torch.device,
        options: LoadOptions = PLAIN,
    ) -> None:
        """Loads every tensor. `files` must have been checked against the config.

        Raises:
            ConfigError: a matrix cannot be quantised, or is packed in a way that cannot be read.
        """
        if device.type == "cpu":
            tune_allocator()
        self.config = config
        self.dtype = dtype
        self.device = device
        self.adapter: Adapter | None = None
        self.batch_invariant = options.batch_invariant
        load = WeightLoader(config, files, dtype, device, options)
        self.embedding = load.plain("encoder.embed_tokens.weight")
        self.norm = load.plain("encoder.norm.weight")
        self._head = load.matrix(HEAD)
        self.layers = []
        for number in range(config.num_layers):
            at = f"encoder.layers.{number}."
            attn, mlp = f"{at}self_attn.", f"{at}mlp."
            self.layers.append(
                Layer(
                    input_norm=load.plain(f"{at}input_layernorm.weight"),
                    qkv=load.matrix(f"{attn}q_proj", f"{attn}k_proj", f"{attn}v_proj"),
                    o=load.matrix(f"{attn}o_proj"),
                    post_norm=load.plain(f"{at}post_attention_layernorm.weight"),
                    gate_up=load.matrix(f"{mlp}gate_proj", f"{mlp}up_proj"),
                    down=load.matrix(f"{mlp}down_proj"),
                )
            )
        self.recorded = RecordedLayers(config, dtype, self.layers) if device.type == "cpu" else None
        """Runs the layers of most steps on a CPU; None = every step calls kernel after kernel."""
        self.scheme = config.stored.scheme if config.stored else options.scheme
        """How the matrices of the layers are quantised; None if they are plain."""
        self.storage = self._describe_storage(options)
        """How plain matrices are held in memory, and why; empty if nothing was decided."""
        self.quantized = without_numbers(load.quantized)
        """Names of the matrices that were quantised at load, `*` for the number of a layer."""
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
        weights: list[torch.Tensor | Prepared] = [self.embedding, self.norm, self._head]
        for layer in self.layers:
            weights += [layer.input_norm, layer.qkv, layer.o, layer.post_norm, layer.gate_up, layer.down]
        return sum(weight.nbytes for weight in weights)

    @property
    def num_multiplications(self) -> int:
        """Multiplications of one token with all weights, the head's included."""
        return sum(matrix.num_outputs * matrix.num_inputs for matrix in self._matrices())

    def describe_kernels(self) -> dict[str, str]:
        """Returns per operator which implementation runs for this model on this machine, and why."""
        config = self.config
        sizes = ModelSizes(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            page_size=PAGE_SIZE,
        )
        kernels = describe_kernels(self.device, self.dtype, sizes, batch_invariant=self.batch_invariant)
        if self.scheme is not None:
            layout = self.layers[0].qkv.layout
            kernels[f"linear, {self.scheme}"] = "reference" if layout is Layout.QUANTIZED else layout.value
        if self.recorded is not None:
            kernels["layers"] = self.recorded.describe()
        return kernels | ({"weight_storage": self.storage} if self.storage else {})

    def _matrices(self) -> list[Prepared]:
        parts = [(layer.qkv, layer.o, layer.gate_up, layer.down) for layer in self.layers]
        return [self._head, *(matrix for layer in parts for matrix in layer)]

    def _describe_storage(self, options: LoadOptions) -> str:
        plain = [matrix for matrix in self._matrices() if matrix.scheme is None]
        if not options.packed12 or not plain:
            return options.storage
        packed = [matrix for matrix in plain if matrix.compact is not None]
        bits = 8 * sum(m.nbytes for m in plain) / sum(m.num_outputs * m.num_inputs for m in plain)
        return f"{options.storage}; {len(packed)} of {len(plain)} matrices, {bits:.1f} bits a weight"

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, after_layer: Callable[[int], None] | None = None) -> torch.Tensor:
        """Runs one ragged step and writes its K and V at the batch's slots.

        Args:
            batch: the step.
            cache: where its pages are.
            after_layer: called with the number of each layer that was launched kernel by kernel.

        Returns:
            Normalised hidden states of the wanted rows, `[R, H]`.
        """
        rotation = self._rotation(batch)
        embedded_TH = F.embedding(batch.token_ids_T, self.embedding)
        x_TH = None
        if self.recorded is not None:
            adapter = None if batch.lora_T is None else self.adapter
            adapt = None if adapter is None else functools.partial(adapter.add, batch=batch)
            x_TH = self.recorded.run(embedded_TH, rotation, batch, cache, adapt)
        if x_TH is None:
            x_TH = self._run_layers(embedded_TH, rotation, batch, cache, after_layer)
        wanted_RH = x_TH if batch.logit_rows_R is None else x_TH[batch.logit_rows_R]
        return rms_norm(wanted_RH, self.norm, self.config.rms_norm_eps)

    def _run_layers(
        self,
        x_TH: torch.Tensor,
        rotation: Rotation,
        batch: Batch,
        cache: KVCache,
        after_layer: Callable[[int], None] | None,
    ) -> torch.Tensor:
        """Runs the layers kernel by kernel."""
        eps, softmax_scale = self.config.rms_norm_eps, self.config.head_dim**-0.5
        for number, layer in enumerate(self.layers):
            qkv_TJ = linear.apply(rms_norm(x_TH, layer.input_norm, eps), layer.qkv)
            q_THD = self._query(qkv_TJ, rotation, cache.slots(number), batch.slots_T)
            o_TA = paged_attention(q_THD, cache.layer(number), batch.ragged, softmax_scale)
            x_TH = linear.apply(o_TA, layer.o, x_TH)
            if self.adapter is not None and batch.lora_T is not None:
                x_TH = self.adapter.add(x_TH, o_TA, number, batch)
            gate_up_TJ = linear.apply(rms_norm(x_TH, layer.post_norm, eps), layer.gate_up)
            x_TH = linear.apply(silu_mul(gate_up_TJ), layer.down, x_TH)
            if after_layer is not None:
                after_layer(number)
        return x_TH

    @torch.inference_mode()
    def head(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Returns the logits `[R, vocab]` in float32."""
        return self.logits(hidden_RH).float()

    @torch.inference_mode()
    def logits(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Returns the same in the dtype of the model, for operators that widen them while they read."""
        return linear.apply(hidden_RH, self._head)

    def _rotation(self, batch: Batch) -> Rotation:
        rope = self.config.rope
        cos, sin = rope_cos_sin(batch.positions_T, self._inv_freq, rope.attention_factor)
        cos, sin = cos.to(self.dtype), sin.to(self.dtype)
        if not rope.query_scale_beta or batch.num_positions <= rope.original_max_positions:
            return Rotation(cos, sin, None)
        scale = query_scale(batch.positions_T, rope.query_scale_beta, rope.original_max_positions)
        return Rotation(cos, sin, scale.to(self.dtype))

    def _query(
        self, qkv_TJ: torch.Tensor, rotation: Rotation, kv_SKD: torch.Tensor, slots_T: torch.Tensor
    ) -> torch.Tensor:
        """Returns the final queries `[T, heads, D]` of a layer and stores its keys and values in the cache."""
        heads = self.config.num_heads
        qkv_TND = qkv_TJ.view(-1, heads + 2 * self.config.num_kv_heads, self.config.head_dim)
        rotate_and_store(qkv_TND, rotation.cos, rotation.sin, kv_SKD, slots_T, rotation.query_scale)
        return qkv_TND[:, :heads]
