"""Locked folders: one that is in use or being made stays, what a kill has left goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from trimode.core.locked_folder import make_locked, remove_unlocked

PREFIX = "trimode-test-"
OLD = 1_000_000_000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_goes_when_its_last_user_has_gone(tmp_path: Path) -> None:
    folder, handle = make_locked(tmp_path, PREFIX)
    assert folder.parent == tmp_path and folder.name.startswith(PREFIX) and folder.stat().st_mode & 0o777 == 0o700
    remove_unlocked(tmp_path, PREFIX)
    assert folder.exists()
    os.close(handle)
    remove_unlocked(tmp_path, PREFIX)
    assert names(tmp_path) == []


def test_folders_that_are_being_made_and_others_stay(tmp_path: Path) -> None:
    new, old = (Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=tmp_path)) for _ in range(2))
    os.utime(old, (OLD, OLD))
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}file").touch()
    remove_unlocked(tmp_path, PREFIX)
    assert names(tmp_path) == sorted([new.name, "other", f"{PREFIX}file"])


@pytest.mark.process
def test_a_process_that_inherits_the_lock_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    folder, handle = make_locked(tmp_path, PREFIX)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(handle,))
    os.close(handle)
    remove_unlocked(tmp_path, PREFIX)
    assert folder.exists()
    process.kill()
    process.communicate()
    remove_unlocked(tmp_path, PREFIX)
    assert not folder.exists()
