"""The benchmark registry: one YAML per benchmark in conf/benchmark/ names its prompt, split, scorer and metric."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass

import yaml
from trimode.core.errors import ConfigError
from trimode.core.project import BENCHMARK_DIR
from trimode.pipeline.spec import ClientKind, JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Facts of one benchmark: the keys that conf/benchmark/<name>.yaml may hold."""

    name: str
    prompt_config: str
    """NeMo-Skills' name of the prompt (a label)."""
    prompt: str
    """Python format string over the row's fields: the one user message."""
    split: str = "test"
    num_samples: int
    """Rows of the full split."""
    scorer: str
    """math | multichoice | evalplus | code_tests | ifeval | livecodebench | none."""
    metric: str
    """Key of metrics.json that is this benchmark's accuracy."""
    generation_key: str = "generation"
    """Row field that holds the answer."""
    source: str = "download"
    """bundled (assets/benchmarks) | download."""
    dataset: str | None = None
    """evalplus' dataset name (humaneval | mbpp)."""
    clients: tuple[str, ...] = ("embedded", "nemo_skills")
    """Which clients can run it."""

    @property
    def prompt_sha256(self) -> str:
        """Hash of the prompt text."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()


@functools.cache
def benchmark_names() -> tuple[str, ...]:
    """Returns every registered name, sorted."""
    return tuple(sorted(path.stem for path in BENCHMARK_DIR.glob("*.yaml")))


@functools.cache
def load_benchmark(name: str) -> Benchmark:
    """Returns the facts of a benchmark. Raises ConfigError for an unknown name or an unknown key in its file."""
    path = BENCHMARK_DIR / f"{name}.yaml"
    if name not in benchmark_names():
        raise ConfigError(f"unknown benchmark: got {name!r}; valid: {', '.join(benchmark_names())}")
    facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {field.name for field in dataclasses.fields(Benchmark)}
    if unknown := set(facts) - known:
        raise ConfigError(f"{path}: unknown keys {sorted(unknown)}; valid: {sorted(known)}")
    if "clients" in facts:
        facts["clients"] = tuple(facts["clients"])
    return Benchmark(**facts)


def without_scorer(spec: JobSpec) -> list[str]:
    """Returns the benchmarks of a job that its client cannot score."""
    kind = spec.client.kind
    return [
        item.name
        for item in (load_benchmark(task.benchmark) for task in spec.tasks)
        if kind not in item.clients or (kind is ClientKind.embedded and item.scorer == "none")
    ]
