"""The lock files hold what pyproject.toml asks for, each layer contains the one before, and no address is named."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trimode.pipeline.run_folder.lock import LOCKS, locked_requirements

PROJECT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
LAYERS = {"base": ["base"], "worker": ["worker", "torch"], "test": ["test", "torch"], "build": ["build"]}
"""What a set-up asks for -> the lock files it installs."""


def locked(layer: str, python: str = "3.11", machine: str = "x86_64") -> dict[str, str]:
    """Name -> version that a Linux machine gets."""
    where = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    where |= {"platform_machine": machine, "platform_system": "Linux", "platform_python_implementation": "CPython"}
    found: dict[str, str] = {}
    for name in LAYERS[layer]:
        for entry in locked_requirements(LOCKS / f"{name}.txt"):
            if entry.marker is None or entry.marker.evaluate(where):
                assert entry.name not in found, f"two versions of {entry.name} on Python {python}, {machine}"
                found[canonicalize_name(entry.name)] = str(entry.specifier).removeprefix("==")
    return found


def direct(layer: str) -> list[Requirement]:
    """What pyproject.toml asks for."""
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    if layer == "build":
        return [Requirement(line) for line in pyproject["build-system"]["requires"]]
    names = ["worker", "test"][: ["base", "worker", "test"].index(layer)]
    extras = pyproject["project"]["optional-dependencies"]
    return [Requirement(line) for line in pyproject["project"]["dependencies"] + [x for n in names for x in extras[n]]]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_direct_dependency_is_locked_inside_its_range(layer: str, python: str, machine: str) -> None:
    versions = locked(layer, python, machine)
    wrong = [
        f"{wanted}: {versions.get(canonicalize_name(wanted.name))}"
        for wanted in direct(layer)
        if not wanted.specifier.contains(versions.get(canonicalize_name(wanted.name), "0"), prereleases=True)
    ]
    assert wrong == [], "bash scripts/lock.sh makes the locks anew"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("inner", "outer"), [("base", "worker"), ("worker", "test")])
def test_each_layer_contains_the_one_before(inner: str, outer: str, python: str) -> None:
    assert locked(inner, python).items() <= locked(outer, python).items()


def test_one_version_builds_and_runs() -> None:
    assert locked("build").items() <= locked("test").items()


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_lock_has_exact_versions_and_hashes_and_nothing_else(path: Path) -> None:
    head, *lines = path.read_text().splitlines()
    assert head == "# Made by scripts/lock.sh"
    entry = re.compile(r"[a-z0-9-]+==[\w.]+( ; [\w.'!=<> ()]+)? \\")
    digest = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lines if not (entry.fullmatch(line) or digest.fullmatch(line))] == []
    assert lines[0][0] != " "
    assert all(after[0] == " " for line, after in itertools.pairwise(lines) if line[0] != " ")
