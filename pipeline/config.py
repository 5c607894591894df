"""The typed config of a sweep: names, types, units; values stand in conf/, checks in pipeline.checks.

Knows nothing of jobs, files or Slurm. Built from Hydra's choices once, by `compose`; below it nobody sees a DictConfig.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from trimode.core.errors import ConfigError
from trimode.core.project import CONF_DIR, PROJECT_DIR
from trimode.core.protocol import Mode


class Device(StrEnum):
    """Where the workers compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DType(StrEnum):
    """Precision of the weights."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class Executor(StrEnum):
    """Who starts the jobs."""

    slurm = "slurm"
    local = "local"


class Container(StrEnum):
    """How a job gets its software."""

    none = "none"
    pyxis = "pyxis"


class ClientKind(StrEnum):
    """Who sends prompts and scores answers."""

    embedded = "embedded"
    nemo_skills = "nemo_skills"


class JobsPer(StrEnum):
    """What one job holds."""

    mode = "mode"
    benchmark = "benchmark"


@dataclass
class ModeConfig:
    """One row of the sweep: how the weights decode."""

    mode: Mode = MISSING
    block_length: int = MISSING
    """Tokens per diffusion or draft block; 1 in ar."""
    threshold: float | None = MISSING
    """Commit confidence; null: none in dlm, 0 in linear_spec; without meaning in ar."""
    lora: bool = False
    """Adapter on the drafter; linear_spec only."""
    max_model_len: int | None = None
    """Longest prompt plus answer, in tokens, that is served."""
    max_position_embeddings: int | None = None
    """Overrides the context limit of the checkpoint's config.json; null keeps it."""


@dataclass
class ModelConfig:
    """Which weights answer."""

    path: str = MISSING
    """Checkpoint folder, or a hub id."""
    name: str | None = None
    """Stands for `path` in folder names; null = the path as given."""
    tokenizer: str | None = None
    """Tokenizer folder; null = the model's own."""
    revision: str | None = None
    """Commit, branch or tag of a hub id; null = main."""
    dtype: DType = DType.bfloat16
    lora_path: str | None = None
    """Adapter folder; null = linear_spec_lora in the model's folder, else miscs/linear_spec_lora."""
    draft_lora_only: bool = False
    """Marks the folder's name; the adapter acts on the drafter alone in any case."""


@dataclass
class ClusterConfig:
    """Where jobs run and what each asks for."""

    name: str = MISSING
    executor: Executor = MISSING
    container: Container = Container.none
    container_image: str | None = None
    container_mounts: list[str] = field(default_factory=list)
    """Mounts beside those the job needs anyway, SRC:DST[:FLAGS]."""
    container_python: str = "python3"
    """Interpreter inside the image."""
    hub_cache: str | None = None
    """Hub cache that containers share instead of downloading again."""
    account: str | None = None
    needs_account: bool = False
    partition: str | None = None
    time_limit: str = MISSING
    """As Slurm writes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; rounded up to minutes."""
    gpus: int | None = None
    """GPUs per job; null = all that are visible."""
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    sbatch: dict[str, str] = field(default_factory=dict)
    """Further sbatch options, name and value."""
    setup: list[str] = field(default_factory=list)
    """Shell lines run in the batch script before the job."""


@dataclass
class BalancerConfig:
    """The workers of a job."""

    device: Device = Device.auto
    workers: int | None = None
    """Workers per job; null = one per GPU, else 1."""
    max_num_seqs: int = 1
    """Requests a worker decodes together."""
    kv_cache_gb: float | None = None
    """KV cache of a worker in GiB; null = a share of free memory."""


@dataclass
class ClientConfig:
    """Who sends the prompts."""

    kind: ClientKind = ClientKind.embedded
    max_concurrent_requests: int = MISSING
    request_timeout_s: float = MISSING
    num_scorers: int = MISSING
    """Scoring processes of a job."""


@dataclass
class Config:
    """A whole sweep: modes x benchmarks."""

    modes: dict[str, ModeConfig] = field(default_factory=dict)
    """Rows by name; group `mode` fills it, `modes.dlm.block_length=64` touches one, `~modes.ar` drops one."""
    benchmarks: Any = MISSING
    """`name` or `name:repeats`: a list, or one string with commas."""
    model: ModelConfig = field(default_factory=ModelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    balancer: BalancerConfig = field(default_factory=BalancerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    max_new_tokens: int = 8192
    """Tokens an answer may have."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 0.95
    """Nucleus of sampling; without effect at temperature 0."""
    starting_seed: int = 0
    enable_thinking: bool = False
    max_thinking_tokens: int = 6000
    """Thinking budget; acts only with thinking on."""
    eos_early_stop: bool = True
    """False: go on after the end token until max_new_tokens."""
    limit: int | None = None
    """First rows of each benchmark only."""
    jobs_per: JobsPer = JobsPer.mode
    num_chunks: int = 1
    """Jobs that share the samples of each benchmark."""
    out_dir: str = MISSING
    exp_name: str | None = None
    """Output subfolder; null = derived from the settings, one per mode."""
    data_dir: str | None = None
    """Folder with one folder of data per benchmark."""
    fresh: bool = False
    """A new run folder beside the one there is."""
    wait: bool = False
    """Return when all jobs have ended; local jobs are always waited for."""
    dry_run: bool = False
    json: bool = False
    """Dry run as JSON."""


def register() -> None:
    """Makes the schema and the `project:` resolver (a path inside this project) known to Hydra; may be called again."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT_DIR / str(path)), replace=True)


def compose(overrides: Sequence[str]) -> Config:
    """The config that Hydra overrides choose. Raises ConfigError with Hydra's own words."""
    register()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return to_config(hydra_compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(config_words(error)) from error


def to_config(node: DictConfig) -> Config:
    """The typed object behind a composed node. Raises OmegaConf's errors for missing or mistyped values."""
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    return config


def config_words(error: BaseException) -> str:
    """What Hydra or OmegaConf said, with its cause, without trace."""
    words = [str(error).strip()]
    while (cause := error.__cause__) is not None and cause is not error:
        if str(cause).strip() not in words[-1]:
            words.append(str(cause).strip())
        error = cause
    return "\n".join(words)
