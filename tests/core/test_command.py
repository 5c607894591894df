"""Every command ends quietly when nobody reads its output any more, and there is one place that sees to it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.scripts.rooms import sources, tree
from trimode.tests.fakes.run_folders import FakeRun, write_run

NOT_COMMANDS = {
    *("balancer/actors/ray_node.py", "balancer/actors/reaper.py", "balancer/join.py", "balancer/server.py"),
    *("bench/balancer/processes.py", "pipeline/doctor/probe_node.py", "pipeline/launch/task.py"),
    *("pipeline/scoring/sandbox/boot.py", "pipeline/scoring/worker.py", "scripts/rooms.py"),
}
"""Files that run as a process, but that no user starts: they speak with the process that has started them."""


@contextmanager
def unread() -> Iterator[int]:
    """The writing end of a pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def run(*words: str, both: bool = False, cwd: Path | None = None) -> tuple[int, bytes]:
    """Runs Python without a reader of stdout, or of `both` streams. Returns exit status and stderr."""
    environment = child_environment() | {"PYTHONUNBUFFERED": ""}  # so that a line may be written when Python ends
    with unread() as out:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
        )
    return done.returncode, done.stderr or b""


def script(body: str) -> tuple[str, str]:
    return (
        "-c",
        f"import os, sys\nfrom trimode.core.command import run_command\nfrom trimode.core.errors import *\n{body}",
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("run_command(lambda: print() or 3)", 3),
        ("run_command(lambda: print() or None)", 0),
        ("run_command(lambda: print() or sys.exit(4))", 4),
        ("run_command(lambda: print(flush=True) or 3)", 0),
        ("run_command(lambda: print(flush=True) or 3, unfinished=141)", 141),
        ("run_command(lambda: print() or 3, unfinished=141)", 3),
    ],
)
@pytest.mark.process
def test_a_command_without_a_reader_ends_quietly(body: str, status: int) -> None:
    assert run(*script(body)) == (status, b"")


@pytest.mark.process
def test_an_error_that_nobody_reads_keeps_its_status() -> None:
    body = "def fail(): raise ConfigError('no')\nrun_command(lambda: guarded(fail))"
    assert run(*script(body), both=True) == (2, b"")


@pytest.mark.process
def test_another_pipe_that_breaks_is_an_error() -> None:
    body = "def fail(): raise BrokenPipeError(32, 'another')\nrun_command(fail)"
    done = subprocess.run([sys.executable, *script(body)], env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "BrokenPipeError: [Errno 32] another" in done.stderr


@pytest.mark.process
def test_a_stdout_that_was_never_open_is_no_error() -> None:
    words = ["bash", "-c", '"$@" >&-', "bash", sys.executable, *script("run_command(lambda: print() or 3)")]
    done = subprocess.run(words, env=child_environment(), stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, b"")


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_character_that_the_terminal_lacks_is_a_question_mark(tmp_path: Path, encoding: str) -> None:
    write_run(tmp_path, FakeRun())
    done = subprocess.run(
        [sys.executable, "-m", "trimode.pipeline.report", str(tmp_path), "--no-html"],
        env=child_environment() | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"demo-math" in done.stdout
    assert b"?" in done.stdout  # the dash of an interval


@pytest.mark.process
def test_ctrl_c_ends_a_command_without_a_trace() -> None:
    body = "import signal\nrun_command(lambda: signal.raise_signal(signal.SIGINT))"
    done = subprocess.run([sys.executable, *script(body)], env=child_environment(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("-m trimode.pipeline.eval --mode all --dry-run", 0),
        ("-m trimode.pipeline.eval --mode ar --dry-run --json", 0),
        ("-m trimode.pipeline mode=ar dry_run=true", 0),
        ("-m trimode.pipeline --help", 0),
        ("-m trimode.pipeline.report RUNS", 0),
        ("-m trimode.pipeline.report RUNS --format csv", 0),
        ("-m trimode.pipeline.compare RUNS", 0),
        ("-m trimode.pipeline.status RUNS", 0),
        ("-m trimode.pipeline.status RUNS --json", 0),
        ("-m trimode.pipeline.doctor", 141),
        ("-m trimode.pipeline.doctor --json", 1),
        ("-m trimode.pipeline.rescore RUNS --num-processes 1", 141),
        ("-m trimode.pipeline.data --help", 0),
        ("-m trimode.balancer --help", 0),
        ("-m trimode.balancer.chat_page --out page.html", 0),
        ("-m trimode.workers.fetch --help", 0),
        ("-m trimode.workers.generate --help", 0),
        ("-m trimode.workers.quantize --model MODEL --out copy --scheme w8a16", 141),
        ("-m trimode.bench.coverage --help", 0),
        ("-m trimode.bench.products --help", 0),
        ("-m trimode.bench.drills --help", 0),
        ("PROJECT/evaluate.py --help", 0),
        ("PROJECT/chat/chat.py --help", 0),
        ("PROJECT/chat/chat_dlm.py --help", 0),
    ],
)
@pytest.mark.process
def test_real_commands_end_quietly_without_a_reader(tmp_path: Path, words: str, status: int) -> None:
    write_run(tmp_path / "runs", FakeRun(samples=4))
    write_run(tmp_path / "runs", FakeRun(samples=4, mode="dlm"))
    words = words.replace("PROJECT", str(PROJECT_DIR)).replace("RUNS", str(tmp_path / "runs"))
    words = words.replace("MODEL", str(PROJECT_DIR / "assets" / "demo_model"))
    assert run(*words.split(), cwd=tmp_path) == (status, b"")


def test_every_command_ends_through_the_one_boundary() -> None:
    missing = {
        str(path.relative_to(PROJECT_DIR))
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == "__name__ == '__main__'"
        and not ast.unparse(node.body[-1]).startswith("run_command(")
    }
    assert missing == NOT_COMMANDS


def test_every_usage_line_names_the_command_as_it_is_typed() -> None:
    unnamed = [
        str(path.relative_to(PROJECT_DIR))
        for path in sources()
        if "__name__ == '__main__'" in (text := ast.unparse(tree(path)))
        and "argparse.ArgumentParser(" in text
        and "ArgumentParser(prog=" not in text
    ]
    assert unnamed == ["bench/gpu/section.py"]  # bench/gpu.sh starts it
