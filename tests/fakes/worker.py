"""Hand-written stand-ins shared by the tests; each keeps the surface of the real thing and nothing more.

Knows no test.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from trimode.core.errors import ConfigError, GenerationError
from trimode.core.protocol import Generation, WorkerSettings


class FakeWorker:
    """The surface of `workers.worker.Worker` without a model: the reply repeats the prompt; magic words make trouble.

    `sleep:S` waits S seconds, `wait:PATH` waits until the file PATH exists, `crash` ends the process, `crash-once:PATH`
    ends it unless the file PATH exists and creates it, `refuse` raises GenerationError, `bug` raises ValueError. Every
    call that begins and every cancellation is appended to the file named by TRIMODE_FAKE_LOG.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        if settings.model.endswith("unloadable"):
            raise ConfigError("the checkpoint lacks\nmodel.safetensors")
        self.settings = settings
        self.cancelled: set[str] = set()
        self.finished = 0

    def info(self) -> dict[str, object]:
        return {
            "model": self.settings.model,
            "served_model_name": self.settings.served_model_name,
            "device": self.settings.device,
            "dtype": self.settings.dtype,
            "max_model_len": 4096,
            "lora": self.settings.lora is not None,
            "num_threads": self.settings.num_threads,
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "weights_sha256": "0" * 64,
        }

    def stats(self) -> dict[str, object]:
        return {"finished": self.finished}

    def cancel(self, request_id: str) -> None:
        self._log(f"cancel {request_id}")
        self.cancelled.add(request_id)

    def close(self) -> None:
        return

    async def generate(self, fields: dict[str, Any]) -> dict[str, object]:
        request_id = str(fields["request_id"])
        text = fields.get("prompt") or (fields["messages"][-1]["content"] if "messages" in fields else "ids")
        self._log(f"begin {request_id} pid {os.getpid()}")
        for word in str(text).split():
            await self._act(word, request_id)
        self.finished += 1
        shown = f"{fields['mode']} {text}"
        return Generation(
            request_id=request_id,
            token_ids=list(range(len(shown.split()))),
            text=shown,
            finish_reason="stop",
            prompt_tokens=len(str(text).split()),
            forwards={"prefill": 1, "decode": 2, "denoise": 0, "cache": 0, "draft": 0, "verify": 0},
            nfe=2,
            trace=None,
            acceptance_lengths=[],
            logprobs=[-0.5] * len(shown.split()) if fields.get("logprobs") else None,
            queue_s=0.25,
            first_token_s=0.5,
            total_s=1.0,
        ).to_json() | {"echo": {key: value for key, value in fields.items() if key != "messages"}}

    async def _act(self, word: str, request_id: str) -> None:
        name, _, value = word.partition(":")
        if name == "sleep":
            await asyncio.sleep(float(value))
        elif name == "wait":
            while not Path(value).exists():
                await asyncio.sleep(0.01)
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
