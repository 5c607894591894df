"""The scripts as a user starts them: on the demo model, from any folder, and stopped by Ctrl-C on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from trimode.tests.fakes.openai_server import Body, OpenAIServer, Reply

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "assets" / "demo_model")
QUESTION = (
    "Solve this problem.\nMax has 5 boxes with 6 stickers each and 2 more stickers. How many stickers does Max have?\n"
)
ANSWER = "First, 5*6=30 stickers. Then, 30+2=32 stickers. Max has 32 stickers. The answer is \\boxed{32}."
PATIENCE_S = 120.0


def environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(cwd: Path, script: str, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "chat" / script), *flags]
    return subprocess.run(
        command, cwd=cwd, input=text, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize(("mode", "nfe"), [("ar", 40), ("dlm", 5), ("linear_spec", 5), ("linear_spec_lora", 5)])
def test_a_preset_answers_one_message(mode: str, nfe: int, tmp_path: Path) -> None:
    done = run(tmp_path, f"chat_{mode}.py", QUESTION, "--model", MODEL, "--dtype", "fp32")
    reply, stats = done.stdout.splitlines()
    assert reply == ANSWER
    assert stats.startswith(f"[NFE={nfe}, 40 tokens, ")


def test_a_conversation_changes_modes(tmp_path: Path) -> None:
    lines = QUESTION.strip().replace("\n", "\\\n") + "\n:mode ar\n:retry\n"
    done = run(tmp_path, "chat.py", lines, "--model", MODEL, "--mode", "linear_spec", "--dtype", "fp32")
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert shown == [ANSWER, ANSWER]
    assert "[NFE=5, " in done.stdout
    assert "[NFE=40, " in done.stdout


@pytest.mark.parametrize("script", ["chat.py", "chat_ar.py"])
def test_help_loads_no_model(script: str, tmp_path: Path) -> None:
    done = run(tmp_path, script, "", "--help")
    assert done.returncode == 0
    assert "nvidia/Nemotron-Labs-Diffusion-8B" in "".join(done.stdout.split())


@pytest.mark.parametrize("script", ["chat.py", "chat_ar.py"])
def test_a_python_without_our_packages_is_said_in_one_line(script: str, tmp_path: Path) -> None:
    # without its site-packages, this Python has the standard library alone
    command = [sys.executable, "-I", "-S", str(ROOT / "chat" / script), "--mode", "ar"]
    done = subprocess.run(command, cwd=tmp_path, input="hi", env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and " lacks the package " in line and "bash eval.sh --setup worker" in line


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, "chat_ar.py", "hi", "--model", "./none")
    assert done.returncode == 2
    assert "error: model: ./none is no folder" in done.stderr


def test_an_adapter_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, "chat_linear_spec_lora.py", "hi", "--model", MODEL, "--lora-path", "./none")
    assert done.returncode == 2
    assert "no adapter at none" in done.stderr


def test_ctrl_c_stops_the_answer_and_not_the_chat(tmp_path: Path) -> None:
    release = threading.Event()

    def reply(body: Body) -> Reply:
        if body["messages"][-1]["content"] == "slow":
            release.wait(PATIENCE_S)
        event = 'data: {"choices": [{"delta": {"content": "Here."}, "finish_reason": "stop"}]}\n\n'
        return 200, event + "data: [DONE]\n\n", {}

    with OpenAIServer(reply) as fake:
        here, there = pty.openpty()
        # a test run in the background of a shell ignores the signal, and so would its children
        command = ["env", "--default-signal=INT", sys.executable, str(ROOT / "chat" / "chat.py"), "--server", fake.url]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdin=there, stdout=there, stderr=there, start_new_session=True
        )
        os.close(there)
        screen = Watched(here)
        screen.wait_for("User: ")
        os.write(here, b"slow\n")
        deadline = time.monotonic() + PATIENCE_S
        while not fake.bodies and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        screen.wait_for("(stopped; the conversation is as it was)")
        release.set()
        os.write(here, b"fast\n")
        screen.wait_for("Here.")
        os.write(here, b"\x04")
        assert process.wait(PATIENCE_S) == 0
        os.close(here)
    assert [body["messages"][-1]["content"] for body in fake.bodies] == ["slow", "fast"]
    assert len(fake.bodies[1]["messages"]) == 1


class Watched:
    """What a process writes on its terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = ""

    def wait_for(self, text: str) -> None:
        while text not in self._text:
            assert select.select([self._descriptor], [], [], PATIENCE_S)[0], f"no {text!r} after {self._text!r}"
            self._text += os.read(self._descriptor, 4096).decode(errors="replace")
        self._text = self._text.split(text, 1)[1]
