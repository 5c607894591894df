"""The registry of benchmarks: its files are read, checked and named in errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline import benchmarks
from trimode.pipeline.benchmarks import benchmark_names, load_benchmark, without_scorer
from trimode.pipeline.spec import ClientKind, JobSpec
from trimode.tests.fakes.specs import client_spec, job_spec, task_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry of the test's own."""
    monkeypatch.setattr(benchmarks, "BENCHMARK_DIR", tmp_path)
    for cached in (benchmark_names, load_benchmark):
        cached.cache_clear()
    yield tmp_path
    for cached in (benchmark_names, load_benchmark):
        cached.cache_clear()


def job_of(kind: ClientKind, *names: str) -> JobSpec:
    tasks = tuple(dataclasses.replace(task_spec(), benchmark=name) for name in names)
    return job_spec(Path("/runs"), tasks, client=client_spec(kind=kind))


@pytest.mark.parametrize("name", benchmark_names())
def test_every_file_has_its_own_name_and_known_clients(name: str) -> None:
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    assert benchmark.num_samples > 0
    assert set(benchmark.clients) <= set(ClientKind)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown benchmark: got 'gsm9k'; valid: aime24, "):
        load_benchmark("gsm9k")


def test_a_file_gives_the_facts(folder: Path) -> None:
    text = "name: mine\nprompt_config: p\nprompt: '{q}'\nnum_samples: 3\nscorer: math\nmetric: m\nclients: [embedded]\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    benchmark = load_benchmark("mine")
    assert (benchmark.split, benchmark.source, benchmark.clients) == ("test", "download", ("embedded",))
    assert len(benchmark.prompt_sha256) == 64


def test_an_unknown_key_is_refused(folder: Path) -> None:
    (folder / "mine.yaml").write_text("name: mine\nscore: math\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown keys \['score'\]; valid: "):
        load_benchmark("mine")


@pytest.mark.parametrize(
    ("kind", "unscored"), [(ClientKind.embedded, ["livecodebench-cpp"]), (ClientKind.nemo_skills, [])]
)
def test_what_a_client_cannot_score(kind: ClientKind, unscored: list[str]) -> None:
    assert without_scorer(job_of(kind, "gsm8k", "livecodebench-cpp")) == unscored


def test_a_client_that_is_not_listed_cannot_score(folder: Path) -> None:
    text = "name: mine\nprompt_config: p\nprompt: '{q}'\nnum_samples: 3\nscorer: math\nmetric: m\nclients: [embedded]\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    assert without_scorer(job_of(ClientKind.nemo_skills, "mine")) == ["mine"]
