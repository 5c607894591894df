"""A checkpoint named by its hub id, from a local hub cache that holds two revisions of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from trimode.core.errors import ConfigError
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO
from trimode.workers.runtime import Runtime, checkpoint_folder

OLD, NEW = "1" * 40, "2" * 40
LIMITS = {OLD: 256, NEW: 128}
"""Context limit of each revision, by which a test knows it."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached repository: `main` is the new commit, `v1` the old one."""
    repository = tmp_path / "models--org--tri"
    for commit, limit in LIMITS.items():
        folder = repository / "snapshots" / commit
        shutil.copytree(MICRO, folder, ignore=shutil.ignore_patterns("cases.json", "README.md"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": limit}))
        (folder / "modeling.py").touch()
    (repository / "refs").mkdir()
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), (OLD, OLD), (NEW, NEW), ("v1", OLD)])
def test_a_hub_id_is_found_at_its_revision(cache: Path, revision: str | None, commit: str) -> None:
    assert checkpoint_folder("org/tri", revision) == cache / "snapshots" / commit


@pytest.mark.parametrize("revision", [None, OLD])
def test_a_worker_loads_the_revision_of_its_settings(cache: Path, revision: str | None) -> None:
    assert cache.is_dir()
    runtime = Runtime(micro_settings(model="org/tri", revision=revision, lora=None))
    assert runtime.engine.model.config.max_position_embeddings == LIMITS[revision or NEW]


@pytest.mark.parametrize("revision", [None, OLD, "v1"])
def test_a_hub_id_is_served_under_its_own_name(cache: Path, revision: str | None) -> None:
    assert cache.is_dir()
    assert Runtime(micro_settings(model="org/tri", revision=revision, lora=None)).name == "org/tri"


def test_a_snapshot_in_the_cache_is_served_under_its_hub_id(cache: Path) -> None:
    for folder in (cache / "snapshots" / OLD, cache / "snapshots" / OLD / ".." / NEW):
        assert Runtime(micro_settings(model=str(folder), lora=None)).name == "org/tri"


def test_a_folder_and_a_given_name_are_served_as_they_are(cache: Path) -> None:
    assert Runtime(micro_settings(lora=None)).name == MICRO.name
    assert cache.is_dir()
    assert Runtime(micro_settings(model="org/tri", lora=None, served_model_name="mine")).name == "mine"


def test_a_revision_that_is_not_there_is_refused(cache: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(ConfigError, match=f"model: org/tri at revision {'3' * 40} is no folder, and the hub did not"):
        checkpoint_folder("org/tri", "3" * 40)


def test_a_folder_has_no_revisions() -> None:
    with pytest.raises(ConfigError, match=f"revision: got v1 for the folder {MICRO}; valid: none, or a hub id"):
        Runtime(micro_settings(revision="v1"))
