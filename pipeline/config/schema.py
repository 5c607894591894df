"""The typed config of a sweep: names, types and units. Values stand in conf/, rules in `checks`.

Hydra fills ComposedConfig; `compose` parses what is still text there and hands on a Config.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING
from trimode.core.protocol import Mode, Quantization, WeightStorage
from trimode.pipeline.spec import ClientKind, Container, Device, DType, Executor, JobsPer, Requeue


class Backend(StrEnum):
    """Who answers the prompts."""

    trimode = "trimode"
    """This project's balancer, which each job starts."""
    openai = "openai"
    """A running server with OpenAI's API."""


@dataclass
class ModeConfig:
    """One row of the sweep: how the weights decode."""

    mode: Mode = MISSING
    block_length: int = MISSING
    """Tokens per diffusion or draft block; 1 in ar."""
    threshold: float | None = MISSING
    """Commit confidence; null: none in dlm, 0 in linear_spec and auto; without meaning in ar."""
    lora: bool = False
    """Adapter on the drafter; linear_spec and auto only."""
    max_model_len: int | None = None
    """Longest prompt plus answer, in tokens, that is served."""
    max_position_embeddings: int | None = None
    """Overrides the context limit of the checkpoint's config.json; null keeps it."""


@dataclass
class ModelConfig:
    """Which weights answer."""

    path: str = MISSING
    """Checkpoint folder, or a hub id. Of a server: its name for the model; empty = the only one it has."""
    name: str | None = None
    """Stands for `path` in folder names; null = the path as given."""
    tokenizer: str | None = None
    """Tokenizer folder; null = the model's own."""
    revision: str | None = None
    """Commit, branch or tag of a hub id; null = main."""
    dtype: DType = DType.bfloat16
    quantization: Quantization = Quantization.none
    """What is done to the weights of the layers at load: none, fp8, w8a16, w4a16. A quantised checkpoint takes none."""
    quantize_head: bool = False
    """Quantise the head too."""
    weight_storage: WeightStorage = WeightStorage.auto
    """How plain bfloat16 weights are held in memory: bf16, packed12 (12 bits each, without loss), or auto."""
    batch_invariant: bool = True
    """Kernels whose results do not depend on the other requests of a batch, where a slower one can promise it."""
    lora_path: str | None = None
    """Adapter folder; null = linear_spec_lora in the model's folder or repository, else miscs/linear_spec_lora."""
    draft_lora_only: bool = False
    """Marks the folder's name; the adapter acts on the drafter alone in any case."""


@dataclass
class ComposedCluster:
    """Where jobs run and what each asks for, as Hydra composes it."""

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
    nodes: int = 1
    """Nodes of a job; the workers of all of them answer one client. The next three are of each node."""
    gpus: int | None = None
    """GPUs per job; null = all that are visible."""
    cpus_per_task: int | None = None
    """CPUs of a job; null = by `sized`."""
    mem_gb: int | None = None
    """Memory of a job in GB; null = by `sized`."""
    sized: bool = False
    """Where CPUs or memory are null, ask for what `plan.resources` says a job needs; false: ask for nothing."""
    qos: str | None = None
    constraint: str | None = None
    """Features that the nodes must have, e.g. `h100&ib`."""
    exclusive: bool = False
    """Whole nodes. CPUs and memory that are null are then left to Slurm."""
    reservation: str | None = None
    gres: str | None = None
    """Generic resources; with GPUs in it, --gpus-per-node is left out, and their number must be that of `gpus`."""
    mail_type: str | None = None
    """When Slurm sends mail: BEGIN, END, FAIL, ALL and others, with commas."""
    mail_user: str | None = None
    comment: str | None = None
    dependency: str | None = None
    """What must have happened first, e.g. `afterok:123`, or `singleton`."""
    begin: str | None = None
    """Earliest start, e.g. `now+1hour` or `20:00`."""
    nice: int | None = None
    """Lowers the priority (above 0)."""
    array_throttle: int | None = None
    """Most jobs of an array that run at the same time; null = all."""
    max_requeues: int = 10
    """How often a job that the time limit has interrupted is run again; 0 = never."""
    requeue: Requeue = Requeue.slurm
    """slurm: Slurm runs the same job again; chain: `max_requeues` further arrays wait to go on with it."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Further sbatch options, name and value; true: a switch without value; false or null: not given."""
    srun: list[str] = field(default_factory=list)
    """Further arguments of srun, each with its dashes."""
    modules: list[str] = field(default_factory=list)
    """Environment modules that the batch script loads, in order."""
    setup: list[str] = field(default_factory=list)
    """Shell lines run in the batch script before the job."""


@dataclass(kw_only=True)
class ClusterConfig(ComposedCluster):
    """Where jobs run and what each asks for."""

    time_limit_min: int
    """`time_limit` in minutes."""


@dataclass
class BalancerConfig:
    """The workers of a job."""

    device: Device = Device.auto
    workers: int | None = None
    """Workers per node of a job; null = one per GPU, else 1."""
    max_num_seqs: int = 1
    """Requests a worker decodes together."""
    kv_cache_gb: float | None = None
    """KV cache of a worker in GiB; null = a share of free memory."""
    start_timeout_s: float = 1800.0
    """Seconds in which a worker must be ready before it is started again; 0 = any time."""
    journal: bool = True
    """True to write down running requests in the run folder, so that an answer that is cut off goes on where it was."""
    backend: Backend = Backend.trimode
    """Who answers. The settings below belong to `openai`, those above to `trimode`."""
    url: str | None = None
    """Address of the server; `/v1` is added where it ends in no version."""
    engine: str = "server"
    """Name of the server's engine and set-up, for folder names and reports."""
    api_key_file: str | None = None
    """File with the server's key."""
    max_in_flight: int = 16
    """Requests that the server has at a time."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Request fields beside the standard ones; null leaves a standard one out."""


@dataclass
class ClientConfig:
    """Who sends the prompts."""

    kind: ClientKind = ClientKind.embedded
    max_concurrent_requests: int = MISSING
    request_timeout_s: float = MISSING
    num_scorers: int = MISSING
    """Scoring processes of a job."""
    max_failed_share: float = 0.0
    """Share of a benchmark's samples, 0 to 1, that may stay without an answer when the infrastructure fails."""


@dataclass(frozen=True, slots=True)
class BenchmarkChoice:
    """One benchmark of a sweep."""

    name: str
    repeats: int
    """Seeds that each sample is asked with."""


@dataclass
class ComposedConfig:
    """A whole sweep, modes x benchmarks, as Hydra composes it."""

    modes: dict[str, ModeConfig] = field(default_factory=dict)
    """Rows by name; group `mode` fills it, `modes.dlm.block_length=64` touches one, `~modes.ar` drops one."""
    benchmarks: Any = MISSING
    """`name` or `name:repeats`: a list, or one string with commas."""
    model: ModelConfig = field(default_factory=ModelConfig)
    cluster: ComposedCluster = field(default_factory=ComposedCluster)
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
    take_over: bool = False
    """Run in a folder whose owner cannot be asked whether it still runs: the user says that it is gone."""
    wait: bool = False
    """Return when all jobs have ended; local jobs are always waited for."""
    dry_run: bool = False
    calibrate: bool = False
    """Run a few samples of each benchmark and mode, so that a dry run can say what the sweep costs."""
    json: bool = False
    """Dry run as JSON."""


@dataclass(kw_only=True)
class Config(ComposedConfig):
    """A whole sweep, modes x benchmarks."""

    cluster: ClusterConfig
    benchmarks: tuple[BenchmarkChoice, ...]
