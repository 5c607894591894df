"""The command that was typed can be typed again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.launch.typed import typed_command


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["python", "-m", "trimode.pipeline.eval", "--mode", "ar", "--model", "my model"],
            f"bash {PROJECT_DIR}/eval.sh --mode ar --model 'my model'",
        ),
        (["python", "-m", "trimode.pipeline", "mode=ar"], f"{sys.executable} -m trimode.pipeline mode=ar"),
    ],
)
def test_a_command_is_kept_as_it_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    (tmp_path / "a folder").mkdir()
    monkeypatch.chdir(tmp_path / "a folder")
    assert typed_command() == f"cd '{tmp_path}/a folder' && {line}"
