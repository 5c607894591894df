"""The lock in a run folder's manifest: its hash, and the installed packages that differ from it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

import pytest
from trimode.pipeline.run_folder.lock import lock_differences, lock_sha256
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.tests.fakes.specs import job_spec

HTTPX = importlib.metadata.version("httpx")
RICH = importlib.metadata.version("rich")


def write(folder: Path, name: str, *entries: str) -> None:
    (folder / name).write_text("# made\n" + "".join(f"{entry} \\\n    --hash=sha256:00\n" for entry in entries))


def test_the_hash_covers_every_lock_file(tmp_path: Path) -> None:
    assert lock_sha256(tmp_path) is None
    write(tmp_path, "b.txt", "httpx==1")
    write(tmp_path, "a.txt", "rich==1")
    both = (tmp_path / "a.txt").read_bytes() + (tmp_path / "b.txt").read_bytes()
    assert lock_sha256(tmp_path) == hashlib.sha256(both).hexdigest()


def test_packages_of_another_version_are_named_once(tmp_path: Path) -> None:
    for name in ("base.txt", "test.txt"):
        write(tmp_path, name, "httpx==0.0.1", f"rich=={RICH}", "not-installed-anywhere==1")
    assert lock_differences(tmp_path) == [f"httpx {HTTPX}, locked 0.0.1"]


def test_only_entries_for_this_python_count(tmp_path: Path) -> None:
    write(tmp_path, "base.txt", f"httpx=={HTTPX} ; python_version >= '3'", "httpx==0.0.1 ; python_version < '3'")
    assert lock_differences(tmp_path) == []


def test_any_build_of_the_locked_version_is_the_locked_version(tmp_path: Path) -> None:
    write(tmp_path, "torch.txt", f"torch=={importlib.metadata.version('torch').split('+')[0]}")
    assert lock_differences(tmp_path) == []


@pytest.mark.process
def test_the_manifest_records_the_lock(tmp_path: Path) -> None:
    spec = job_spec(tmp_path)
    paths = RunPaths(Path(spec.run_dir))
    Manifest(spec, paths).open({}, {})
    job = json.loads(paths.manifest.read_text())["jobs"]["0"]
    assert (job["lock_sha256"], job["lock_differences"]) == (lock_sha256(), lock_differences())
    assert len(job["lock_sha256"]) == 64
