"""What another user of the machine can reach of a running balancer: nothing without its token, and no file."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from trimode.tests.fakes.balancer_process import RunningBalancer, private_folder, start_balancer, wait_for

pytestmark = pytest.mark.process

NOBODY = 65534


def listening(balancer: RunningBalancer) -> list[tuple[str, int, str]]:
    """(address, port, process name) of every TCP socket that the balancer and its children listen on."""
    found = []
    for pid in [balancer.process.pid, *balancer.tree()]:
        try:
            process = psutil.Process(pid)
            name = process.name()
            connections = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        found += [(c.laddr.ip, c.laddr.port, name) for c in connections if c.status == psutil.CONN_LISTEN]
    return found


def mapped(balancer: RunningBalancer) -> list[str]:
    """The files that are part of the memory of the balancer and its children, as /proc lists them."""
    found = []
    for pid in [balancer.process.pid, *balancer.tree()]:
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return found


def as_nobody(command: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell command as another user."""
    setpriv = shutil.which("setpriv")
    if os.getuid() != 0 or setpriv is None:
        pytest.skip("only root can act as another user")
    return subprocess.run(
        [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sh", "-c", command],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
        check=False,
    )


def test_only_this_user_can_enter_the_folder(balancer: RunningBalancer) -> None:
    folder = private_folder(balancer.process.pid)
    assert folder.stat().st_mode & 0o777 == 0o700
    token = folder / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert folder in (folder / "ray").parents
    assert (folder / "ray" / "session_latest").exists()


def test_another_user_reads_and_writes_nothing(balancer: RunningBalancer) -> None:
    folder = private_folder(balancer.process.pid)
    for command in (f"ls {folder}", f"cat {folder}/token", f"mv {folder}/token {folder}/t", f"touch {folder}/ray/x"):
        done = as_nobody(command)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
    found = as_nobody(f"find {folder} /dev/shm -user {os.getuid()} -readable 2>/dev/null")
    assert [line for line in found.stdout.splitlines() if line not in (str(folder), "/dev/shm")] == []


def test_everything_listens_on_loopback_alone(balancer: RunningBalancer) -> None:
    sockets = listening(balancer)
    assert len(sockets) >= 6
    assert {address.removeprefix("::ffff:") for address, _, _ in sockets} == {"127.0.0.1"}, sockets


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """One frame of HTTP/2."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def call(port: int, path: str) -> bytes:
    """The raw reply to a gRPC call with an empty message and without any token."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    # each header is a literal that is not indexed: a zero, then name and value with their lengths
    packed = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, packed) + frame(0, 1, 1, bytes(5))
    reply = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        while b"grpc-status" not in reply and (part := connection.recv(65536)):
            reply += part
    return reply


def grpc_status(reply: bytes) -> int | None:
    found = re.search(rb"grpc-status[\x01\x02]([0-9]+)", reply)
    return int(found.group(1)) if found else None


UNIMPLEMENTED, UNAUTHENTICATED = 12, 16
RAY_CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/Exit",
)


def test_no_port_serves_a_caller_without_the_token(balancer: RunningBalancer) -> None:
    http_port = int(balancer.url.rpartition(":")[2])
    seen = set()
    for _, port, name in listening(balancer):
        if port == http_port:
            continue
        if name.startswith("ray::RuntimeEnv"):
            reply = httpx.post(f"http://127.0.0.1:{port}/get_or_create_runtime_env", content=b"", timeout=60)
            assert reply.status_code in (401, 403), (name, reply.status_code)
        else:
            statuses = {path: grpc_status(call(port, path)) for path in RAY_CALLS}
            assert set(statuses.values()) == {UNIMPLEMENTED, UNAUTHENTICATED}, (name, port, statuses)
        seen.add(name.partition(":")[0])
    assert seen == {"ray", "raylet", "gcs_server", "python"}
    assert balancer.ask("hello").status_code == 200


def test_long_prompts_and_replies_are_never_written_to_disk(tmp_path: Path) -> None:
    long_contexts = ("--worker-class", "trimode.tests.fakes.worker:LongFakeWorker")
    balancer = start_balancer(tmp_path, *long_contexts)
    folder, gate = private_folder(balancer.process.pid), tmp_path / "gate"
    text = f"wait:{gate} secret" + "x" * 12_000_000  # ten of them are more than Ray's object store holds
    with ThreadPoolExecutor(10) as threads:
        held = [threads.submit(balancer.ask, text) for _ in range(10)]
        try:
            wait_for(lambda: len(balancer.begun()) == 10)
            assert [line for line in mapped(balancer) if str(folder) in line] == []  # a deleted file is on disk too
            files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
            assert not any(b"secretxxx" in path.read_bytes() for path in files)
            assert sum(path.stat().st_size for path in files) < 10_000_000
        finally:
            gate.touch()
        assert [len(future.result().content) > 12_000_000 for future in held] == [True] * 10
    assert list(folder.rglob("*spill*")) == []  # Ray keeps the log of a process that has written objects to disk
    assert balancer.terminate() == 0


def test_gcs_keeps_no_record_of_calls(balancer: RunningBalancer) -> None:
    environ = Path(f"/proc/{balancer.process.pid}/environ").read_bytes().split(b"\0")
    assert b"RAY_task_events_report_interval_ms=0" in environ
