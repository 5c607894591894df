"""The two commands: what goes to stdout and which status they end with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError, JobFailed, SubmissionError
from trimode.core.project import child_environment
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.claims import give_back, take
from trimode.pipeline.launch.owner import read_owner, this_process
from trimode.pipeline.launch.view import Stage, view
from trimode.pipeline.plan.rounds import continue_or_start
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.sweep import guarded_sweep, say_skipped
from trimode.tests.fakes.sweeps import finish, local_jobs

pytestmark = pytest.mark.process


def python(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = child_environment()
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, env=environment, capture_output=True, text=True)


def raising(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("no"), 2),
        (SubmissionError("no", "#!/bin/sh"), 1),
        (JobFailed("no"), 1),
        (KeyboardInterrupt(), 1),
    ],
)
def test_errors_become_words_and_a_status(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded_sweep(lambda: raising(error)) == status
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err and told.err


def test_hydras_command_and_its_multirun(tmp_path: Path) -> None:
    flags = ("benchmarks=gsm8k:1", "dry_run=true", "json=true")
    done = python(tmp_path, "trimode.pipeline", "mode=dlm", *flags)
    assert done.returncode == 0, done.stderr
    assert [job["mode"] for job in json.loads(done.stdout)["jobs"]] == ["dlm"]
    done = python(tmp_path, "trimode.pipeline", "-m", "mode=ar,dlm", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"settings"') == 2
    assert list(tmp_path.iterdir()) == [], "nothing is left in the caller's folder"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trimode.pipeline", "modes.dlm.blok=1"), "unknown setting: got modes.dlm.blok; valid in modes.dlm: mode"),
        (("trimode.pipeline", "mode=nope"), "mode: got 'nope'; valid: all, ar"),
        (("trimode.pipeline", "mode=ar", "limit=0"), "limit: got 0"),
        (("trimode.pipeline", "-m", "mode=ar,dlm", "limit=0"), "limit: got 0"),
        (("trimode.pipeline.eval", "--mode", "nope"), "--mode: got 'nope'"),
    ],
)
def test_the_callers_errors_end_with_two(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = python(tmp_path, *words)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    environment = child_environment()
    command = f"{sys.executable} -m trimode.pipeline.eval --mode all --dry-run | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Settings\n", b"")


def test_folders_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    ar, dlm, _ = local_jobs(tmp_path)
    other = this_process()
    take([dlm], Launcher(other))
    with pytest.raises(ConfigError, match="one owner"):
        take([ar, dlm], Launcher(this_process()))
    assert read_owner(Path(ar.run_dir)) is None
    assert read_owner(Path(dlm.run_dir)) == other
    assert json.loads(RunPaths(Path(dlm.run_dir)).plan.read_text())["jobs"][0]["name"] == "dlm"
    give_back([dlm], other)
    assert read_owner(Path(dlm.run_dir)) is None


def test_what_is_finished_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = local_jobs(tmp_path)
    finish(jobs[0])
    say_skipped(continue_or_start(jobs, fresh=False))
    assert capsys.readouterr().err == f"ar: finished before, skipped: {jobs[0].run_dir}\n"


def test_what_became_of_a_local_job_before_is_not_what_became_of_it_now(tmp_path: Path) -> None:
    ar, dlm, _ = local_jobs(tmp_path)
    finish(ar)
    failed = RunPaths(Path(dlm.run_dir)).failed(dlm.index)
    failed.parent.mkdir(parents=True)
    failed.write_text("now\nCause: an old one\n")
    owner = this_process()
    take([dlm], Launcher(owner))
    waiting = view(dlm, None, None)
    assert (waiting.stage, waiting.detail) == (Stage.PENDING, "it waits for the jobs before it")
    assert view(ar, None, None).stage is Stage.COMPLETED
    give_back([dlm], owner)
