"""A worker without a model, and results of one with chosen values."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimode.core.delta import Delta, OnDelta
from trimode.core.errors import ConfigError, GenerationError
from trimode.core.protocol import FORWARD_KINDS, Cost, Generation, WorkerSettings
from trimode.core.worker import Worker, WorkerInfo, WorkerStats


def worker_info(**changes: Any) -> WorkerInfo:
    """What a fake worker says of itself, with some fields changed."""
    fields: dict[str, Any] = {
        "model": "fake",
        "served_model_name": "fake",
        "device": "cpu",
        "device_name": "fake",
        "dtype": "float32",
        "kernels": {"all": "fake"},
        "max_model_len": 4096,
        "max_num_seqs": 4,
        "lora": False,
        "vocab_size": 256,
        "weights_sha256": "w0",
        "lora_sha256": None,
        "versions": {"torch": "2"},
    }
    return WorkerInfo(**(fields | changes))


def cost(**changes: Any) -> Cost:
    """What that reply cost, with some fields changed."""
    fields: dict[str, Any] = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "forwards": dict.fromkeys(FORWARD_KINDS, 0) | {"prefill": 1, "decode": 2},
        "nfe": 2,
        "queue_s": 0.25,
        "first_token_s": 0.5,
        "total_s": 1.0,
    }
    return Cost(**(fields | changes))


def generation(**changes: Any) -> Generation:
    """A reply of three tokens, with some fields changed."""
    fields: dict[str, Any] = {
        "request_id": "r",
        "token_ids": [0, 1, 2],
        "text": "one two three",
        "finish_reason": "stop",
        "cost": cost(),
        "trace": None,
    }
    return Generation(**(fields | changes))


def fake_text(task: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer whose tokens are the bytes; 255 is a special token."""
    if task == "vocabulary":
        tokens = [chr(byte) for byte in range(255)]
        info = {"tokenizer_class": "Fake", "bos_token": None, "eos_token": "<end>", "chat_template": "{{ messages }}"}
        return {"tokens": [*tokens, "<end>"], "special": [255], "info": info}
    if task == "detokenize":
        return {"text": bytes(fields["tokens"]).decode(errors="replace")}
    if "prompt_ids" in fields:
        return {"tokens": fields["prompt_ids"]}
    text = fields.get("prompt") or "".join(message["content"] for message in fields["messages"])
    return {"tokens": list(str(text).encode())}


class PlainWorker(Worker):
    """What a worker needs beside `generate`, without any effect but a list of what was cancelled."""

    def __init__(self) -> None:
        self.fields: list[Mapping[str, Any]] = []
        """Of every call of `generate` that a subclass has noted."""
        self.cancelled: list[str] = []

    def info(self) -> WorkerInfo:
        return worker_info()

    async def stats(self) -> WorkerStats:
        return WorkerStats()

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        return fake_text(task, fields)

    async def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def close(self) -> None:
        return


class FakeWorker(Worker):
    """Repeats the prompt in its reply, word by word. Some words in the prompt have an effect:

    `sleep:S` waits S seconds, `wait:PATH` waits until the file PATH exists, `crash` ends the process, `crash-once:PATH`
    ends it unless the file PATH exists and creates it, `refuse` raises GenerationError, `bug` raises ValueError. Every
    call that begins and every cancellation is appended to the file named by TRIMODE_FAKE_LOG. A model whose name ends
    with `hangs-once` is never loaded by the first process that tries.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        if settings.model.endswith("unloadable"):
            raise ConfigError("the checkpoint lacks\nmodel.safetensors")
        if settings.model.endswith("hangs-once"):
            with contextlib.suppress(FileExistsError):
                Path(settings.model).touch(exist_ok=False)
                time.sleep(3600)
        self.settings = settings
        self.cancelled: set[str] = set()
        self.finished = 0
        self.steps = 0

    def info(self) -> WorkerInfo:
        return worker_info(
            model=self.settings.model,
            served_model_name=self.settings.served_model_name,
            device=self.settings.device,
            device_name=f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}",
            dtype=self.settings.dtype,
            quantization=self.settings.quantization,
            batch_invariant=self.settings.batch_invariant,
            lora=self.settings.lora is not None,
        )

    async def stats(self) -> WorkerStats:
        return WorkerStats(requests_finished=self.finished, steps=self.steps)

    async def text(self, task: str, fields: Mapping[str, object]) -> dict[str, Any]:
        return fake_text(task, fields)

    async def cancel(self, request_id: str) -> None:
        self._log(f"cancel {request_id}")
        self.cancelled.add(request_id)

    def close(self) -> None:
        return

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:
        request_id = str(fields["request_id"])
        text = fields.get("prompt") or (fields["messages"][-1]["content"] if "messages" in fields else "ids")
        self._log(f"begin {request_id} pid {os.getpid()} on {os.environ.get('CUDA_VISIBLE_DEVICES')}")
        shown = f"{fields['mode']} {text}"
        for place, piece in enumerate(re.findall(r"\s*\S+|\s+$", shown)):
            self.steps += 1
            if place:
                await self._act(piece.strip(), request_id)
            if on_delta is not None:
                on_delta(_part(place, piece, fields))
        self.finished += 1
        num_tokens = len(shown.split())
        return generation(
            request_id=request_id,
            token_ids=list(range(num_tokens)),
            text=shown,
            cost=cost(prompt_tokens=len(str(text).split()), completion_tokens=num_tokens),
            logprobs=[-0.5] * num_tokens if fields.get("logprobs") else None,
        )

    async def _act(self, word: str, request_id: str) -> None:
        name, _, value = word.partition(":")
        if name == "sleep":
            await asyncio.sleep(float(value))
        elif name == "wait":
            while not Path(value).exists():
                await asyncio.sleep(0.01)
                self.steps += 1
                if request_id in self.cancelled:
                    raise GenerationError("cancelled", 499)
        elif name == "crash" or (name == "crash-once" and not Path(value).exists()):
            if value:
                Path(value).touch()
            os._exit(9)
        elif name == "refuse":
            raise GenerationError("block_length: got 0; valid: 1 or more", 400)
        elif name == "bug":
            raise ValueError("a secret of the prompt")

    def _log(self, line: str) -> None:
        path = os.environ.get("TRIMODE_FAKE_LOG")
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _part(place: int, piece: str, fields: Mapping[str, Any]) -> Delta:
    """One word of the reply as one token."""
    token = {"id": place, "text": piece, "state": "committed", "p": 0.5, "pass": 1}
    event = {"mode": fields["mode"], "block": place, "pass": 1, "start": place, "tokens": [token]}
    return Delta(
        token_ids=[place] if piece.strip() else [],
        logprobs=[-0.5] if fields.get("logprobs") and piece.strip() else None,
        text=piece,
        passes=[event] if fields.get("stream_events") == "denoise" else [],
    )


class LongFakeWorker(FakeWorker):
    """The same with a context of a million tokens."""

    def info(self) -> WorkerInfo:
        return dataclasses.replace(super().info(), max_model_len=1_000_000)
