"""The files of a journal: written by one process, read by another, whatever happened to them between."""

from __future__ import annotations

import errno
import os
import zlib
from concurrent.futures import Future
from pathlib import Path

import pytest
from trimode.core.continuation import Continuation
from trimode.workers.journal import writer as module
from trimode.workers.journal.reader import JournalReader
from trimode.workers.journal.writer import JournalWriter

A, B = "a" * 32, "b" * 32


def part(digest: str, start: int, *tokens: int) -> Continuation:
    return Continuation(digest=digest, token_ids=list(tokens), forwards={"decode": start + len(tokens)}, start=start)


def flushed(writer: JournalWriter) -> None:
    done: Future[None] = Future()
    writer.flush(done)
    done.result()


def written(path: Path, *parts: Continuation, identity: str = "ours") -> None:
    writer = JournalWriter(path, identity)
    for item in parts:
        writer.add(item)
    writer.close()


def test_what_is_written_is_found(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "journal", "ours")
    assert reader.find(A) is None
    written(tmp_path / "journal" / "one.jsonl", part(A, 0, 1, 2), part(B, 0, 9), part(A, 2, 3))
    assert JournalReader(tmp_path / "journal", "ours").find(A) == part(A, 0, 1, 2, 3)
    assert JournalReader(tmp_path / "journal", "ours").find(B) == part(B, 0, 9)
    assert JournalReader(tmp_path / "journal", "ours").find("c" * 32) is None


def test_a_file_that_grows_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimode.workers.journal.reader.SHARE_OF_TIME", 1e9)
    reader, writer = JournalReader(tmp_path, "ours"), JournalWriter(tmp_path / "one.jsonl", "ours")
    for number in range(3):
        writer.add(part(A, number, number))
        flushed(writer)
        found = reader.find(A)
        assert found is not None
        assert found.end == number + 1
    writer.close()


def test_the_longest_of_several_files_wins(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl", part(A, 0, 1, 2))
    written(tmp_path / "two.jsonl", part(A, 0, 1, 2, 3), part(A, 3, 4))
    written(tmp_path / "zero.jsonl", part(A, 0, 1))
    assert JournalReader(tmp_path, "ours").find(A) == part(A, 0, 1, 2, 3, 4)


def test_a_worker_with_other_weights_reads_nothing(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl", part(A, 0, 1, 2), identity="theirs")
    assert JournalReader(tmp_path, "ours").find(A) is None


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "one.jsonl"
    written(path, part(A, 0, 1, 2), part(A, 2, 3))
    path.write_bytes(path.read_bytes()[:-cut])
    assert JournalReader(tmp_path, "ours").find(A) == part(A, 0, 1, 2)


def test_a_damaged_line_is_skipped_with_a_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.jsonl"
    written(path, part(A, 0, 1, 2), part(A, 2, 3), part(A, 3, 4), part(B, 0, 7))
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"3", b"4")
    path.write_bytes(b"\n".join(lines))
    reader = JournalReader(tmp_path, "ours")
    assert reader.find(A) == part(A, 0, 1, 2)  # what follows the gap is of no use
    assert reader.find(B) == part(B, 0, 7)
    assert capsys.readouterr().err.count("damaged lines of") == 1


def test_lines_and_files_that_somebody_else_put_there_are_left_out(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl", part(A, 0, 1, 2))
    with (tmp_path / "one.jsonl").open("ab") as file:
        for body in (b"\xff\xfe {}", B.encode() + b" [1]", B.encode() + b" 7", B.encode() + b' {"token_ids": 3}'):
            file.write(b"%08x %s\n" % (zlib.crc32(body), body))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.jsonl").mkdir()
    reader = JournalReader(tmp_path, "ours")
    assert reader.find(A) == part(A, 0, 1, 2)
    assert reader.find(B) is None


def test_parts_that_contradict_each_other_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "one.jsonl", part(A, 0, 1, 2), part(A, 0, 1, 5, 6))
    assert JournalReader(tmp_path, "ours").find(A) is None
    assert "is left out" in capsys.readouterr().err


def test_nobody_goes_on_with_a_request_that_failed(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl", part(A, 0, 1, 2))
    writer = JournalWriter(tmp_path / "two.jsonl", "ours")
    writer.end(A, failed=True)
    writer.close()
    assert JournalReader(tmp_path, "ours").find(A) is None


def test_a_file_stays_small_and_keeps_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_REWRITE_BYTES", 4000)
    monkeypatch.setattr("trimode.workers.journal.reader.SHARE_OF_TIME", 1e9)
    path = tmp_path / "one.jsonl"
    reader, writer = JournalReader(tmp_path, "ours"), JournalWriter(path, "ours")
    for number in range(600):
        digest = f"{number:032x}"
        writer.add(part(digest, 0, *range(20)))
        writer.end(digest)
        writer.add(part(A, number, number))
        flushed(writer)
        assert path.stat().st_size < 2 * 160 * (module.MAX_ENDED + number + 4) + 4000
        if number % 50 == 0:
            assert reader.find(A) == part(A, 0, *range(number + 1))
    assert reader.find(A) == part(A, 0, *range(600))
    assert reader.find(f"{599:032x}") is not None
    assert reader.find(f"{3:032x}") is None
    assert list(tmp_path.iterdir()) == [path]
    writer.close()


@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_a_full_disk_switches_the_journal_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = JournalWriter(tmp_path / "one.jsonl", "ours")
    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, full)
        writer.add(part(A, 0, 1))
        flushed(writer)
    assert writer.failed
    writer.add(part(A, 1, 2))
    flushed(writer)
    writer.close()
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_half_a_line_of_a_full_disk_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    writer = JournalWriter(tmp_path / "one.jsonl", "ours")
    writer.add(part(A, 0, 1))
    flushed(writer)

    def half(handle: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: len(data) // 2])

    monkeypatch.setattr(module.os, "write", half)
    writer.add(part(A, 1, 2))
    flushed(writer)
    writer.close()
    assert JournalReader(tmp_path, "ours").find(A) == part(A, 0, 1)
