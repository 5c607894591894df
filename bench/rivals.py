"""Rival engines at the same shape with random weights, measured one step at a time.

Each runs in its own process, so that our allocator settings do not apply to it.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from trimode.bench.random_checkpoint import SPREAD

Step = Callable[[int], None]
"""Runs n tokens after the context and copies one sampled token per row to the host."""


def transformers_step(shape: dict[str, Any], context: int, folder: Path) -> Step:  # noqa: ARG001 -- as llama_step
    """`Ministral3ForCausalLM` in bfloat16 with its own attention choice and a DynamicCache, batch 1."""
    from transformers import DynamicCache, Ministral3Config, Ministral3ForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    model = Ministral3ForCausalLM(Ministral3Config(**shape, pad_token_id=None)).eval()
    torch.set_default_dtype(torch.float32)
    cache = DynamicCache(config=model.config)
    vocab = shape["vocab_size"]
    # newer releases warn about the old name
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    @torch.inference_mode()
    def run(count: int) -> None:
        logits = model(input_ids=torch.randint(vocab, (1, count)), use_cache=True, **{name: cache}).logits
        logits.argmax(dim=-1).tolist()

    def step(count: int) -> None:
        run(count)
        for layer in cache.layers:
            layer.crop(-count)

    run(context)
    return step


def llama_step(shape: dict[str, Any], context: int, folder: Path, kind: str = "BF16") -> Step:
    """llama.cpp through llama-cpp-python, from a GGUF of the same shape whose matrices are of a kind, batch 1."""
    from llama_cpp import Llama

    path = folder / f"model-{kind}.gguf"
    _write_gguf(path, shape, kind)
    model = Llama(
        str(path), n_ctx=context + 128, n_batch=512, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(),
        logits_all=True, verbose=False,
    )  # fmt: skip
    chance = np.random.default_rng(0)

    def run(count: int) -> None:
        model.eval(chance.integers(shape["vocab_size"], size=count).tolist())
        model.scores[model.n_tokens - count : model.n_tokens].argmax(axis=-1).tolist()

    def step(count: int) -> None:
        model.n_tokens = context
        run(count)

    run(context)
    return step


def _write_gguf(path: Path, shape: dict[str, Any], kind: str) -> None:
    import gguf

    stored = gguf.GGMLQuantizationType[kind]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(shape["num_attention_heads"])
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    hidden, inner, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    q_width, kv_width = (shape[key] * shape["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    sizes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, hidden), "output.weight": (vocab, hidden), "output_norm.weight": (hidden,)
    }  # fmt: skip
    for number in range(shape["num_hidden_layers"]):
        at = f"blk.{number}."
        sizes |= {f"{at}attn_norm.weight": (hidden,), f"{at}ffn_norm.weight": (hidden,)}
        sizes |= {f"{at}attn_q.weight": (q_width, hidden), f"{at}attn_output.weight": (hidden, q_width)}
        sizes |= {f"{at}attn_k.weight": (kv_width, hidden), f"{at}attn_v.weight": (kv_width, hidden)}
        sizes |= {f"{at}ffn_gate.weight": (inner, hidden), f"{at}ffn_up.weight": (inner, hidden)}
        sizes |= {f"{at}ffn_down.weight": (hidden, inner)}
    chance = torch.Generator().manual_seed(0)
    for name, size in sizes.items():
        if len(size) == 1:
            writer.add_tensor(name, np.ones(size, dtype=np.float32))
            continue
        data = gguf.quants.quantize(torch.randn(size, generator=chance).mul_(SPREAD).numpy(), stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


RIVALS: dict[str, tuple[str, Callable[[dict[str, Any], int, Path], Step]]] = {
    "transformers": ("transformers", transformers_step),
    "llama.cpp": ("llama_cpp", llama_step),
}
"""Name -> (module it needs, how to build its step)."""
QUANTIZED_RIVALS: dict[str, tuple[str, Callable[[dict[str, Any], int, Path], Step]]] = {
    f"llama.cpp {kind}": ("llama_cpp", functools.partial(llama_step, kind=kind)) for kind in ("Q8_0", "Q4_0")
}
"""The same for matrices of fewer bits."""


class Rival:
    """One rival in its own process, idle between questions."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._pipe.recv()

    def seconds(self, tokens: int, repeats: int) -> list[float]:
        """Returns the seconds of each of `repeats` steps of `tokens` tokens, after one that is not counted."""
        self._pipe.send((tokens, repeats))
        measured: list[float] = self._pipe.recv()
        return measured


@contextmanager
def rival(name: str, shape: dict[str, Any], context: int, folder: Path) -> Iterator[Rival | None]:
    """Starts the rival `name`; yields None if it is not installed."""
    if find_spec((RIVALS | QUANTIZED_RIVALS)[name][0]) is None:
        yield None
        return
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, name, shape, context, folder), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Rival(ours)
    finally:
        ours.close()
        process.join(timeout=30)
        process.kill()


def _serve(pipe: Connection, name: str, shape: dict[str, Any], context: int, folder: Path) -> None:
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)  # inherited from us: rivals run as their users run them
    step = (RIVALS | QUANTIZED_RIVALS)[name][1](shape, context, folder)
    pipe.send(None)
    while True:
        try:
            tokens, repeats = pipe.recv()
        except EOFError:
            return
        pipe.send(time_steps(functools.partial(step, tokens), repeats))


def time_steps(step: Callable[[], object], repeats: int) -> list[float]:
    """Returns the seconds of each of `repeats` calls, after one that is not counted."""
    step()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return seconds
