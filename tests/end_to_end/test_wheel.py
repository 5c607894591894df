"""A wheel of this project, installed in a bare environment without the checkout, runs on a login node."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.tests.fakes.run_folders import FakeRun, write_run

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a bare environment with the wheel; third-party packages come from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".venv*", ".git", ".*_cache", "__pycache__", "*.egg-info", "build")
    shutil.copytree(PROJECT_DIR, source, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("trimode-*.whl")
    bare = folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    packages = next(bare.glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", bare / "bin" / "python", "install", "-q", "--no-deps", wheel]
    subprocess.run(install, check=True)
    (packages / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bare / "bin" / "python"


def run(python: Path, folder: Path, *command: str) -> str:
    """Output of a module's command, started outside of the checkout."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(
        [python, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_wheel_that_runs(python: Path, tmp_path: Path) -> None:
    code = "import trimode.core.project as project; print(project.PROJECT_DIR)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert "site-packages" in done.stdout
    assert str(PROJECT_DIR) not in done.stdout


@pytest.mark.parametrize("module", ["trimode.pipeline", "trimode.pipeline.eval", "trimode.pipeline.report"])
def test_help(python: Path, tmp_path: Path, module: str) -> None:
    assert "--" in run(python, tmp_path, module, "--help")


def test_the_chat_page_is_in_the_wheel(python: Path, tmp_path: Path) -> None:
    run(python, tmp_path, "trimode.balancer.chat_page", "--out", str(tmp_path / "chat.html"))
    assert (tmp_path / "chat.html").read_text(encoding="utf-8").count("<script>") > 10


def test_dry_run(python: Path, tmp_path: Path) -> None:
    shown = run(python, tmp_path, "trimode.pipeline", "dry_run=true", "benchmarks=gsm8k:4", "cluster=bare")
    assert "#SBATCH" in shown
    assert str(PROJECT_DIR) not in shown
    exported = [line.split("=", 1)[1].split("$")[0] for line in shown.splitlines() if "export PYTHONPATH=" in line]
    assert exported
    assert all((Path(folder) / "trimode" / "pipeline").is_dir() for folder in exported)


def test_report(python: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", FakeRun())
    assert "demo-math" in run(python, tmp_path, "trimode.pipeline.report", str(tmp_path / "runs"))
    assert "<svg" in (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
