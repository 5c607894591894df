"""What the balancer adds to a request: latency and throughput beside bare uvicorn + starlette, in the same run.

Both answer the same body at once; neither has a model.
Run: `python -m trimode.bench.balancer [--requests N] [--repeats N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from trimode.core.delta import OnDelta
from trimode.core.processes import die_with_parent
from trimode.core.protocol import FORWARD_KINDS, Cost, Generation, WorkerSettings
from trimode.core.worker import Worker, WorkerInfo, WorkerStats

PROMPT = "What is the sum of the first hundred numbers? " * 10
BODY = json.dumps({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 256, "mode": "linear_spec"})
REPLY_TEXT = "The sum is 5050. " * 40
CONCURRENCIES = (1, 8, 32)


class EchoWorker(Worker):
    """A worker that answers at once, with a reply of 256 tokens."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def info(self) -> WorkerInfo:
        """Returns what the balancer shows of a worker."""
        return WorkerInfo(
            model=self._settings.model,
            served_model_name=self._settings.served_model_name or "echo",
            device="cpu",
            device_name="none",
            dtype=self._settings.dtype,
            kernels={},
            max_model_len=4096,
            max_num_seqs=self._settings.max_num_seqs,
            lora=False,
            vocab_size=256,
            weights_sha256="",
            lora_sha256=None,
            versions={},
        )

    async def stats(self) -> WorkerStats:
        """Returns zeros."""
        return WorkerStats()

    async def cancel(self, request_id: str) -> None:
        """Does nothing: no request runs long enough."""

    def close(self) -> None:
        """Does nothing: there is no thread to end."""

    async def generate(self, fields: Mapping[str, object], on_delta: OnDelta | None = None) -> Generation:  # noqa: ARG002
        """Returns the same reply for every request."""
        return Generation(
            request_id=str(fields["request_id"]),
            token_ids=list(range(256)),
            text=REPLY_TEXT,
            finish_reason="stop",
            cost=Cost(
                prompt_tokens=100,
                completion_tokens=256,
                forwards=dict.fromkeys(FORWARD_KINDS, 8),
                nfe=50,
                acceptance_lengths=[5] * 50,
            ),
            trace=None,
        )


def bare_app() -> Starlette:
    """The rival: it reads the JSON body and sends a reply of the same size, nothing else."""
    reply = {"choices": [{"message": {"role": "assistant", "content": REPLY_TEXT}}], "usage": {"lengths": [5] * 50}}

    async def answer(request: Request) -> Response:
        json.loads(await request.body())
        return JSONResponse(reply)

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement."""

    p50_ms: float
    p99_ms: float
    requests_per_s: float


async def load(port: int, concurrency: int, requests: int) -> Load:
    """Sends `requests` over `concurrency` kept connections, each waiting for its reply before the next."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
    message = (head + BODY).encode()
    seconds: list[float] = []
    left = requests

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            start = time.perf_counter()
            writer.write(message)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode())
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            seconds.append(time.perf_counter() - start)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    total = time.perf_counter() - began
    cuts = statistics.quantiles(seconds, n=100)
    return Load(cuts[49] * 1e3, cuts[98] * 1e3, requests / total)


@contextlib.contextmanager
def bare_server() -> Iterator[int]:
    """Starts the rival in its own process; yields its port."""
    with subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve-bare"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextlib.contextmanager
def balancer_server(num_workers: int) -> Iterator[int]:
    """Starts the balancer with echo workers, prints how long it took to be ready, and yields its port."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "trimode.balancer", "--model", "echo", "--device", "cpu"]
        command += ["--worker-class", f"{__spec__.name}:EchoWorker", "--num-workers", str(num_workers)]
        began = time.perf_counter()
        command += ["--ready-file", str(ready)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent) as process:
            try:
                while not ready.exists():
                    if process.poll() is not None:
                        raise RuntimeError("the balancer did not start")
                    time.sleep(0.02)
                print(f"balancer with {num_workers} echo workers ready after {time.perf_counter() - began:.1f} s")
                yield int(json.loads(ready.read_text())["url"].rpartition(":")[2])
            finally:
                began = time.perf_counter()
                process.terminate()
                process.wait()
                print(f"balancer and all below it gone {time.perf_counter() - began:.1f} s after SIGTERM")


def compare(requests: int, repeats: int) -> None:
    """Prints one line per concurrency: medians over the repeats, and the balancer's share beside the bare server."""
    with bare_server() as bare, balancer_server(2) as balancer:
        asyncio.run(load(balancer, 8, 200))
        print("| concurrent | bare p50 / p99 ms | balancer p50 / p99 ms | added p50 ms | req/s | of bare |")
        print("|---|---|---|---|---|---|")
        for concurrency in CONCURRENCIES:
            rivals, ours = [], []
            for _ in range(repeats):  # in turn, so that both see the same machine
                rivals.append(asyncio.run(load(bare, concurrency, requests)))
                ours.append(asyncio.run(load(balancer, concurrency, requests)))
            rival, own = _median(rivals), _median(ours)
            print(
                f"| {concurrency} | {rival.p50_ms:.2f} / {rival.p99_ms:.2f} | {own.p50_ms:.2f} / {own.p99_ms:.2f} "
                f"| {own.p50_ms - rival.p50_ms:.2f} | {own.requests_per_s:.0f} "
                f"| {own.requests_per_s / rival.requests_per_s:.3f}x |"
            )


def _median(loads: Sequence[Load]) -> Load:
    return Load(
        statistics.median(item.p50_ms for item in loads),
        statistics.median(item.p99_ms for item in loads),
        statistics.median(item.requests_per_s for item in loads),
    )


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="per measurement (default 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per line; medians are shown (default 3)")
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_bare:
        config = uvicorn.Config(bare_app(), log_level="warning", access_log=False, lifespan="off")
        # with the protocol named, asyncio turns Nagle's algorithm off: the rival must not wait for ACKs either
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[listener])
        return
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; the load generator shares them")
    compare(args.requests, args.repeats)


if __name__ == "__main__":
    main()
