"""Reading files of rows that another process is writing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from trimode.core.files import whole_lines


def test_a_line_that_grows_while_it_is_read_is_left_for_the_next_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"
    path.write_text("one\ntw")

    class Growing(io.TextIOWrapper):
        def __next__(self) -> str:
            line = super().__next__()
            if not line.endswith("\n"):
                with io.FileIO(path, "a") as other:
                    other.write(b"o\nthree\n")
            return line

    def opened(self: Path, **_: Any) -> Growing:
        return Growing(io.FileIO(self), encoding="utf-8", newline="\n")

    monkeypatch.setattr(Path, "open", opened)
    assert list(whole_lines(path)) == ["one\n"]
    assert list(whole_lines(path)) == ["one\n", "two\n", "three\n"]
