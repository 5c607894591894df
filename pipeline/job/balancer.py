"""Starts, watches and ends the balancer process of one job, and keeps server_info_group<N>.env up to date.

It uses only the balancer's command line and its ready file.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from trimode.core.errors import USER_ERROR, WorkerError
from trimode.core.files import tail, write_text_atomic
from trimode.core.nodes import JOIN_FILE, NODES_TOKEN
from trimode.core.processes import serve_job
from trimode.core.worker import WorkerInfo
from trimode.pipeline.job.devices import Devices
from trimode.pipeline.job.ready import Ready
from trimode.pipeline.run_folder.folder import RunFolder
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import now
from trimode.pipeline.spec import ClientKind, Device, JobSpec

POLL_S = 0.1
NOTE_EVERY_S = 60.0
READY_TIMEOUT_S = 3600.0
"""The job fails if the workers are not ready by then. A large checkpoint on a slow file system takes many minutes."""
STOP_S = 30.0
"""The balancer is killed if it has not ended its workers by then."""
BALANCER = ("-m", "trimode.balancer")
"""Arguments of the Python interpreter that start the balancer."""


class ServerEnded(WorkerError):  # noqa: N818 - an event
    """The balancer ended before the job. `came_up`: True if it had served, or was killed before it could."""

    def __init__(self, message: str, came_up: bool) -> None:
        super().__init__(message)
        self.came_up = came_up

    def __reduce__(self) -> tuple[type[ServerEnded], tuple[str, bool]]:
        return ServerEnded, (str(self), self.came_up)


class BalancerProcess:
    """One balancer process with its workers, used as a context manager: no process is left afterwards."""

    def __init__(self, folder: RunFolder, devices: Devices, program: tuple[str, ...] = BALANCER) -> None:
        spec, paths = folder.spec, folder.paths
        self._spec = spec
        self._paths = paths
        self._lease = folder.lease
        self._devices = devices
        self._program = program
        attempt = uuid.uuid4().hex if folder.lease is None else folder.lease.attempt
        self._ready_file = paths.balancer_ready(spec.index, attempt)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._url: str | None = None
        self._api_key = secrets.token_urlsafe(32)
        self._key_fd: int | None = None
        self._nodes_token = os.environ.pop(NODES_TOKEN, None)  # programs that are scored must not see it
        self._lost: dict[str, int] = {}
        self.on_lost: Callable[[dict[str, int]], None] = lambda _lost: None
        """Called with the number of lost workers by node, whenever it changes."""

    def command(self) -> list[str]:
        """The balancer's command line."""
        model, client = self._spec.model, self._spec.client
        invariance = "--batch-invariant" if model.batch_invariant else "--no-batch-invariant"
        head = ["--quantize-head"] if model.quantize_head else []
        command = [sys.executable, *self._program, "--model", model.path, *head, invariance]
        options: dict[str, object] = {
            "--revision": model.revision,
            "--lora": self._spec.decode.lora_path,
            "--tokenizer": model.tokenizer,
            "--dtype": model.dtype,
            "--quantization": model.quantization.value,
            "--weight-storage": model.weight_storage.value,
            "--max-position-embeddings": model.max_position_embeddings,
            "--num-workers": self._devices.num_workers,
            "--device": self._devices.device,
            "--max-num-seqs": client.max_num_seqs,
            "--kv-cache-gb": client.kv_cache_gb,
            "--start-timeout": client.start_timeout_s,
            "--default-mode": self._spec.decode.mode.value,
            "--ready-file": self._ready_file,
            "--log-dir": self._ready_file.parent,
            "--journal": self._paths.journal if client.journal else None,
            "--log-prefix": f"group{self._spec.index}_",
            "--request-log": self._request_log(),
            "--grace": 0,  # the job decides when it ends; what runs then goes on in the next run
            "--max-queue": max(4096, 2 * client.max_concurrent_requests),
            "--api-key-file": None if self._key_fd is None else f"/proc/self/fd/{self._key_fd}",
        }
        if self._spec.resources.num_nodes > 1:
            options |= {
                "--num-nodes": self._spec.resources.num_nodes,
                "--join-file": os.environ.get(JOIN_FILE),
                "--node-host": _address_of_this_node(),
            }
        for flag, value in options.items():
            if value is not None:
                command += [flag, str(value)]
        return command

    def _request_log(self) -> Path | None:
        """Returns the balancer's request log. NeMo-Skills drops the cost in replies, so the balancer logs it."""
        if self._spec.client.kind is not ClientKind.nemo_skills:
            return None
        path = self._paths.request_log(self._spec.index)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> BalancerProcess:
        log = self._paths.balancer_log(self._spec.index)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._ready_file.unlink(missing_ok=True)
        self._log = log.open("ab")
        self._key_fd = _file_in_memory(self._api_key)
        self._log.write(f"--- {now()} {' '.join(self.command())}\n".encode())
        self._log.flush()
        write_server_info(self._spec, self._paths, "starting", None, self._devices)
        self._process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **({NODES_TOKEN: self._nodes_token} if self._nodes_token else {})},
            pass_fds=(self._key_fd,),
            preexec_fn=serve_job,  # the balancer's reaper then ends the workers
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        try:
            self._stop()
        finally:
            if self._log is not None:
                self._log.close()
            if self._key_fd is not None:
                os.close(self._key_fd)
            self._ready_file.unlink(missing_ok=True)
            if self._lease is None or self._lease.is_held():
                status = "stopped" if kind is None else "failed"
                write_server_info(self._spec, self._paths, status, self._url, self._devices)

    def wait_ready(self, interrupt: Callable[[], None]) -> Ready:
        """Blocks until the balancer serves; calls `interrupt` often, which may raise.

        Raises WorkerError with the end of the balancer's log if it ends or takes too long.
        """
        began = noted = time.monotonic()
        while not self._ready_file.exists():
            self.check()
            interrupt()
            time.sleep(POLL_S)
            if time.monotonic() - noted > NOTE_EVERY_S:
                noted = time.monotonic()
                print(f"waiting for the workers for {noted - began:.0f} s", flush=True)
            if time.monotonic() - began > READY_TIMEOUT_S:
                raise WorkerError(f"the workers were not ready after {READY_TIMEOUT_S:.0f} s; {self._end_of_log()}")
        content = json.loads(self._ready_file.read_text(encoding="utf-8"))
        workers = [WorkerInfo.from_json(worker) for worker in content["workers"]]
        ready = Ready(url=content["url"], workers=workers, api_key=self._api_key)
        self._url = ready.url
        write_server_info(self._spec, self._paths, "running", self._url, self._devices)
        return ready

    def check(self) -> None:
        """Raises WorkerError if the balancer has ended: a ServerEnded unless the user must act."""
        if self._url is not None and self._spec.resources.num_nodes > 1:
            self._look_at_nodes()
        if self._process is not None and (status := self._process.poll()) is not None:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            message = f"the balancer {how}; {self._end_of_log()}"
            if status == USER_ERROR:
                raise WorkerError(message)
            raise ServerEnded(message, came_up=status < 0 or self._url is not None)

    def _look_at_nodes(self) -> None:
        try:
            lost = json.loads(self._ready_file.read_text(encoding="utf-8"))["lost"]
        except FileNotFoundError:  # the balancer is ending
            return
        if lost != self._lost:
            self._lost = lost
            self.on_lost(lost)

    def _stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(f"the balancer did not stop within {STOP_S:.0f} s and is killed", flush=True)
        finally:
            self._process.kill()
            self._process.wait()

    def _end_of_log(self) -> str:
        log = self._paths.balancer_log(self._spec.index)
        return f"its log {log} ends with:\n{tail(log, 20)}"


def _address_of_this_node() -> str | None:
    """Returns the address under which Slurm reaches this node, where the step was launched on it; None if unknown."""
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "")
    return None if address.startswith("127.") or not address else address


def _file_in_memory(text: str) -> int:
    """Returns the descriptor of a file that has no name: only this process and those that inherit it can read it.

    /proc/self/fd/N names it there, as often as it is wanted.
    """
    handle = os.memfd_create("api-key")
    os.write(handle, text.encode())
    return handle


def write_server_info(spec: JobSpec, paths: RunPaths, status: str, url: str | None, devices: Devices) -> None:
    """Writes the job's KEY="value" file for its owner's eyes only. `status`: starting | running | stopped | failed."""
    address = urlsplit(url or "")
    num_workers = devices.num_workers * spec.resources.num_nodes
    values: Mapping[str, object] = {
        "SERVER_INFO_GENERATED_AT": now(),
        "SERVER_MODE": "gpu_only" if devices.device is Device.cuda else "cpu_only",
        "SERVER_STATUS": status,
        "SERVER_CLIENT_HOST": address.hostname or "",
        "SERVER_PORT": address.port or "",
        "SERVER_ADDRESS": f"{url.rstrip('/')}/v1" if url else "",
        "MULTI_GPU": "true" if num_workers > 1 else "false",
        "NUM_GPUS": num_workers if devices.device is Device.cuda else 0,
        "SLURM_JOB_ID": os.environ.get("SLURM_JOB_ID", ""),
    }
    text = "".join(f'{key}="{value}"\n' for key, value in values.items())
    write_text_atomic(paths.server_info(spec.index), text, mode=0o600)
