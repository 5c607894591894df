"""Files survive a writer that is killed, and readers never see half of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.files import (
    AppendFile,
    cut_torn_line,
    replacing,
    tail,
    whole_lines,
    write_json_atomic,
    write_text_atomic,
)
from trimode.core.project import child_environment


def test_an_atomic_write_makes_the_folder_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json_atomic(path, {"é": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert list(path.parent.iterdir()) == [path]


def test_the_mode_of_an_atomic_write(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "secret", "x", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_any_writer_can_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    for data in (b"old", b"new"):
        with replacing(path) as beside:
            beside.unlink()  # a writer may make the file anew
            beside.write_bytes(data)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_opening_for_appending_cuts_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo\nthr", encoding="utf-8")
    lines = AppendFile(path)
    lines.append("four\n")
    lines.sync()
    lines.close()
    assert path.read_text(encoding="utf-8") == "one\ntwo\nfour\n"


@pytest.mark.parametrize(("before", "after"), [("", ""), ("torn", ""), ("one\n", "one\n")])
def test_a_torn_line_is_cut(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "lines"
    path.write_text(before, encoding="utf-8")
    cut_torn_line(path)
    assert path.read_text(encoding="utf-8") == after


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\n" + "x" * 200_000, encoding="utf-8")
    cut_torn_line(path)
    assert path.read_text(encoding="utf-8") == "one\n"


def test_whole_lines_leave_out_blank_and_torn_ones(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\n\ntwo\nthr", encoding="utf-8")
    assert list(whole_lines(path)) == ["one\n", "two\n"]
    assert list(whole_lines(tmp_path / "missing")) == []


def test_the_tail_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert tail(path, 2) == "two\nthree"
    assert tail(tmp_path / "missing", 2) == ""


def test_a_lone_surrogate_is_written_as_an_escape_and_read_back(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "x.json", {"a": "cut \ud83d, whole \U0001f600"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": "cut \ud83d, whole \U0001f600"}


@pytest.mark.process
def test_a_lock_that_is_not_kept_excludes_and_leaves_no_file(tmp_path: Path) -> None:
    path, count = tmp_path / "lock", tmp_path / "count"
    count.write_text("0")
    code = (
        "import sys; from pathlib import Path; from trimode.core.files import locked\n"
        "lock, count = map(Path, sys.argv[1:])\n"
        "for _ in range(200):\n"
        "    with locked(lock, keep=False):\n"
        "        count.write_text(str(int(count.read_text()) + 1))\n"
    )
    command = [sys.executable, "-c", code, str(path), str(count)]
    running = [subprocess.Popen(command, env=child_environment()) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert count.read_text() == "600"
    assert not path.exists()
