"""An OpenAI-shaped server with made-up answers, as a thread or as a process with the balancer's command line.

The answer to a prompt is a function of its text, so that two runs can be compared row by row.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from trimode.tests.fakes.loopback import LoopbackServer
from trimode.tests.fakes.worker import worker_info

Reply = tuple[int, dict[str, object]]
Body = dict[str, object]


def prompt_of(body: Body) -> str:
    messages = body["messages"]
    assert isinstance(messages, list)
    return str(messages[-1]["content"])


def answer(body: Body) -> Reply:
    """A right answer to two thirds of the prompts, with a ledger that depends on prompt and seed."""
    prompt = prompt_of(body)
    seed = body["seed"]
    assert isinstance(seed, int)
    number = zlib.crc32(f"{prompt}{seed}".encode())
    value = prompt.rpartition(" ")[2] if number % 3 else "wrong"
    tokens = 5 + number % 40
    verifies = 1 + number % 4
    text = f"It is \\boxed{{{value}}}\u2028{'x' * (number % 3000)}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": len(prompt),
        "completion_tokens": tokens,
        "nfe": 1 + 2 * verifies,
        "forwards": {"prefill": 1, "decode": 0, "denoise": 0, "cache": 0, "draft": verifies, "verify": verifies},
        "forwards_saved": 1,
        "acceptance_lengths": [1] * verifies,
        "queue_s": 0.25,
        "first_token_s": 0.5,
        "total_s": 1.25,
    }
    return 200, {"id": f"chatcmpl-{number}", "object": "chat.completion", "choices": [choice], "usage": usage}


def error(status: int, message: str) -> Reply:
    return status, {"error": {"message": message, "type": "fake", "code": status}}


class FakeBalancer(LoopbackServer):
    """Serves on a free loopback port while the context is open. `reply(body, attempt)` may sleep or refuse."""

    def __init__(
        self,
        reply: Callable[[Body, int], Reply] | None = None,
        headers: dict[str, str] | None = None,
        api_key: str = "EMPTY",
    ) -> None:
        """`api_key`: requests with another key, or none, are refused."""
        self._api_key = api_key
        self._reply = reply or (lambda body, _attempt: answer(body))
        self._headers = headers or {}
        self.bodies: list[Body] = []
        self.attempts: Counter[str] = Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        super().__init__()

    def answer(self, body: Body) -> Reply:
        with self._lock:
            self.bodies.append(body)
            self.attempts[prompt_of(body)] += 1
            attempt = self.attempts[prompt_of(body)]
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self._reply(body, attempt)
        finally:
            with self._lock:
                self._at_once -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = fake.answer(body) if self._is_allowed() else error(401, "wrong key")
                if status == 0:  # hang up without a word
                    self.close_connection = True
                    return
                self._send(status, reply)

            def do_GET(self) -> None:
                cards = {"object": "list", "data": [{"id": "fake", "object": "model"}]}
                self._send(*((200, cards) if self._is_allowed() else error(401, "wrong key")))

            def do_PUT(self) -> None:
                self._send(200, {"status": "ok"})

            def _is_allowed(self) -> bool:
                return self.headers.get("Authorization") == f"Bearer {fake._api_key}"

            def _send(self, status: int, reply: dict[str, object]) -> None:
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                for name, value in fake._headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args: object) -> None:
                return

        return Handler


def main() -> None:
    """The process: takes the balancer's flags; its behaviour comes from FAKE_BALANCER (JSON)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-file", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key-file", type=Path, required=True)
    args, _ = parser.parse_known_args()
    behaviour = json.loads(os.environ.get("FAKE_BALANCER", "{}"))
    if "fail_start" in behaviour:
        print(behaviour["fail_start"], file=sys.stderr)
        sys.exit(3)
    time.sleep(behaviour.get("start_s", 0.0))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_args: ended.set())
    num_answers = 0

    def reply(body: Body, _attempt: int) -> Reply:
        nonlocal num_answers
        time.sleep(behaviour.get("delay_s", 0.0))
        num_answers += 1
        if num_answers == behaviour.get("die_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour.get("refuse") and behaviour["refuse"] in prompt_of(body):
            return error(400, "refused on purpose")
        return answer(body)

    api_key = args.api_key_file.read_text()
    if "key_file" in behaviour:
        Path(behaviour["key_file"]).write_text(api_key)
    with FakeBalancer(reply, api_key=api_key) as fake:
        info = worker_info(weights_sha256=behaviour.get("weights", "w0"))
        ready = {"url": fake.url, "pid": os.getpid(), "workers": [info.to_json()]}
        beside = args.ready_file.with_suffix(".new")
        beside.write_text(json.dumps(ready))
        beside.replace(args.ready_file)
        ended.wait()
        if "most_file" in behaviour:
            Path(behaviour["most_file"]).write_text(str(fake.most_at_once))


if __name__ == "__main__":
    main()
