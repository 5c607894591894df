"""A further node: it joins the server that FILE names, then the one that takes its place, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.balancer.actors.ray_node import address_towards, node_name
from trimode.balancer.join import answers, main
from trimode.core.errors import ConfigError
from trimode.core.nodes import NODES_TOKEN
from trimode.core.project import child_environment

RECORDS = """
import os, pathlib, sys, time
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
names = [name for name in os.environ if name.startswith("TRIMODE_NODES")]
with open(os.environ["SEEN"], "a") as file:
    file.write(f"{sys.argv[1]} {sys.argv[2]} {token} {len(names)} {os.getpid()} {os.getcwd()}\\n")
time.sleep(float(os.environ["LASTS"]))
"""


def start(tmp_path: Path, lasts: float) -> subprocess.Popen[str]:
    """A joining node whose Ray is a program that notes what it was given."""
    program = (
        "import sys; from trimode.balancer import join; join.LOOK_EVERY_S = join.LOOK_AT_SERVER_EVERY_S = 0.02; "
        f"sys.exit(join.main(sys.argv[1:], ('-c', {RECORDS!r})))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "server"), "2"]
    own = {NODES_TOKEN: "secret", "SEEN": str(tmp_path / "seen"), "LASTS": str(lasts)}
    return subprocess.Popen(command, env=child_environment(**own), text=True, stderr=subprocess.PIPE)


def serve_at(tmp_path: Path, address: str) -> None:
    new = tmp_path / "new"
    new.write_text(json.dumps({"address": address}))
    new.replace(tmp_path / "server")


def seen(tmp_path: Path, count: int) -> list[list[str]]:
    deadline = time.monotonic() + 120
    path = tmp_path / "seen"
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, f"fewer than {count} joined"
        time.sleep(0.05)
    return [line.split() for line in path.read_text().splitlines()]


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.process
def test_it_gives_up_a_server_whose_machine_is_gone(tmp_path: Path, address: str) -> None:
    """Ray would wait for it for very long."""
    assert answers(address)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"127.0.0.1:{closed.getsockname()[1]}"
    assert not answers(gone)
    serve_at(tmp_path, gone)
    node = start(tmp_path, 600)
    assert node.wait(240) == 1
    assert node.stderr is not None
    node.stderr.close()


@pytest.mark.process
def test_it_follows_the_server_and_leaves_nothing_behind(tmp_path: Path, address: str) -> None:
    node = start(tmp_path, 600)
    serve_at(tmp_path, address)
    [[joined, number, token, names, pid, folder]] = seen(tmp_path, 1)
    assert (joined, number, token, names) == (address, "2", "secret", "0")
    time.sleep(0.5)  # many looks
    other = address.replace("127.0.0.1", "localhost")
    serve_at(tmp_path, other)
    second = seen(tmp_path, 2)[1]
    assert second[0] == other
    assert not Path(f"/proc/{pid}").exists() and not Path(folder).exists()
    node.send_signal(signal.SIGUSR2)
    node.terminate()
    assert node.wait(120) == 0
    assert not Path(f"/proc/{second[4]}").exists() and not Path(second[5]).exists()
    assert node.stderr is not None
    node.stderr.close()


@pytest.mark.process
def test_it_gives_up_a_server_that_it_cannot_stay_with(tmp_path: Path) -> None:
    serve_at(tmp_path, "10.0.0.1:5")
    node = start(tmp_path, 0)
    assert node.wait(240) == 1
    assert len(seen(tmp_path, 3)) == 3
    assert node.stderr is not None
    node.stderr.close()


def test_without_the_token_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NODES_TOKEN, raising=False)
    with pytest.raises(ConfigError, match="the token in TRIMODE_NODES_TOKEN"):
        main(["file", "1"])


def test_the_address_of_a_node_is_the_one_that_the_server_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_towards("127.0.0.1:80") == "127.0.0.1"
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    assert node_name() == "n7"
    monkeypatch.delenv("SLURMD_NODENAME")
    assert node_name() == os.uname().nodename
