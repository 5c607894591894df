"""The contract of a sweep: frozen descriptions of models, tasks, resources and jobs, made by `plan` and read below it.

A JobSpec is plain data: plan.json, manifest.json, the calls of a submission and the dry run hold it as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from trimode.core.protocol import Mode, Quantization, WeightStorage


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
    apptainer = "apptainer"


class Requeue(StrEnum):
    """How a job that was interrupted runs again."""

    slurm = "slurm"
    """Slurm runs the same job again."""
    chain = "chain"
    """Arrays that were submitted with it go on. For clusters that forbid requeueing."""


LINK = "TRIMODE_LINK"
"""Environment variable of the jobs of a chain: how many of its arrays came before; not set in the first."""


class ClientKind(StrEnum):
    """Who sends prompts and scores answers."""

    embedded = "embedded"
    nemo_skills = "nemo_skills"


class JobsPer(StrEnum):
    """What one job holds."""

    mode = "mode"
    benchmark = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Which weights answer."""

    path: str
    """Absolute checkpoint folder, or a hub id."""
    tokenizer: str | None
    """Tokenizer folder; None = the model's own."""
    dtype: DType
    max_position_embeddings: int | None
    """Context limit override; None = config.json's."""
    revision: str | None = None
    quantization: Quantization = Quantization.none
    """What the worker does to the weights at load; `none` also for a checkpoint that is quantised."""
    quantize_head: bool = False
    weight_storage: WeightStorage = WeightStorage.auto
    """How plain bfloat16 weights are held in memory; the answers do not depend on it."""
    batch_invariant: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSpec:
    """How every sample of one job is decoded; the fields the client sends with each request."""

    mode: Mode
    lora: bool
    lora_path: str | None
    """Adapter folder when `lora`; else None."""
    block_length: int
    threshold: float | None
    temperature: float
    top_p: float
    max_new_tokens: int
    enable_thinking: bool
    max_thinking_tokens: int | None
    """Sent only with thinking on; None otherwise."""
    eos_early_stop: bool


@dataclass(frozen=True, slots=True)
class SampleShare:
    """One of `count` contiguous shares of a benchmark's rows, one per job that answers it."""

    index: int
    count: int

    def positions(self, num_rows: int) -> range:
        """Returns the positions of this share among `num_rows` rows.

        Where `count` does not divide `num_rows`, the first shares get one row more, as in NeMo-Skills.
        """
        size, more = divmod(num_rows, self.count)
        first = self.index * size + min(self.index, more)
        return range(first, first + size + (self.index < more))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One benchmark inside a job."""

    benchmark: str
    """Registry name (pipeline.benchmarks)."""
    repeats: int
    """1 = one run (seed 0, output-rs0.jsonl); N = seeds starting_seed .. starting_seed+N-1."""
    seeds: tuple[int, ...]
    num_samples: int
    """Rows of the full split."""
    limit: int | None
    """First rows only; None = all."""
    chunk: SampleShare | None = None
    """The job's share of these rows; None = all of them."""

    def positions(self, num_rows: int) -> range:
        """Returns the positions, among the first `num_rows` rows, that this job answers."""
        return range(num_rows) if self.chunk is None else self.chunk.positions(num_rows)

    def shares_files_with(self, other: TaskSpec) -> bool:
        """True if both write the same files: the same benchmark, unless they are two shares of one division."""
        if self.benchmark != other.benchmark:
            return False
        one, two = self.chunk, other.chunk
        divided = one is not None and two is not None and one.count == two.count and self.seeds == other.seeds
        return not divided or one == two

    @property
    def num_rows(self) -> int:
        """Rows of the benchmark that are asked per seed, by all jobs that share them together."""
        return self.num_samples if self.limit is None else min(self.limit, self.num_samples)

    @property
    def num_requests(self) -> int:
        """Requests this task sends when nothing is done yet."""
        return len(self.positions(self.num_rows)) * self.repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    """What the job runs on."""

    cluster: str
    """`local` or the name of a conf/cluster file."""
    device: Device
    """A job that asked for GPUs and sees none fails; it never falls back to the CPU by itself."""
    num_gpus: int
    """GPUs of each node (0 on a CPU job)."""
    num_workers: int | None
    """Workers to start on each node; None = one per visible GPU, else 1."""
    time_limit_min: int
    partition: str | None = None
    account: str | None = None
    num_nodes: int = 1
    """Nodes of a job; GPUs, workers, CPUs and memory are those of each."""
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    executor: Executor = Executor.slurm
    container: Container = Container.none
    container_image: str | None = None
    container_mounts: tuple[str, ...] = ()
    """SRC:DST[:FLAGS] each."""
    container_python: str = "python3"
    """Interpreter inside the image."""
    sbatch: tuple[tuple[str, str | None], ...] = ()
    """Further sbatch options, name and value, in order; without a value: a switch."""
    srun: tuple[str, ...] = ()
    """Further arguments of the srun that starts the job."""
    modules: tuple[str, ...] = ()
    """Environment modules that the batch script loads."""
    setup: tuple[str, ...] = ()
    """Shell lines run in the batch script before the job."""
    max_requeues: int = 10
    """How often a job that the time limit has interrupted is run again; 0 = never."""
    requeue: Requeue = Requeue.slurm
    array_throttle: int | None = None
    """Most jobs of an array that run at the same time; None = all."""

    @property
    def all_workers(self) -> int | None:
        """Workers of all nodes; None if it depends on the GPUs that are visible."""
        per_node = self.num_workers or self.num_gpus
        return per_node * self.num_nodes if per_node else None

    @property
    def num_follow_ups(self) -> int:
        """Arrays that are submitted after the first one, to go on where it was interrupted."""
        return self.max_requeues if self.requeue is Requeue.chain else 0

    @property
    def asks_gpus_by_gres(self) -> bool:
        """True if the GPUs are asked for with --gres, so that --gpus-per-node is left out."""
        return any(name == "gres" and gpus_in_gres(value or "") is not None for name, value in self.sbatch)


def gpus_in_gres(gres: str) -> int | None:
    """Returns the GPUs that a text such as `gpu:h100:4,tmp:1` asks for; None if it asks for none."""
    parts = [item.strip().removeprefix("gres/").replace("=", ":").split(":") for item in gres.split(",")]
    counts = [int(part[-1]) if part[-1].isdigit() else 1 for part in parts if part[0] == "gpu"]
    return sum(counts) if counts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """A running server with OpenAI's API that answers in place of this project's balancer."""

    url: str
    """Routes are appended to it; it ends in `/v1` or another version."""
    engine: str
    """Name in folder names and reports."""
    api_key_file: str | None = None
    fields: dict[str, object] = field(default_factory=dict)
    """Request fields beside the standard ones; None leaves a standard one out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSpec:
    """How the prompts are sent and scored."""

    kind: ClientKind
    max_concurrent_requests: int
    max_num_seqs: int
    """Slots per worker."""
    request_timeout_s: float
    num_scorers: int
    """Scoring processes."""
    kv_cache_gb: float | None = None
    start_timeout_s: float = 1800.0
    """In which a worker must be ready."""
    journal: bool = False
    """True if workers write down their running requests, so that these go on after a death."""
    max_failed_share: float = 0.0
    """Share of a benchmark's samples that may have no answer for reasons of the infrastructure."""
    server: ServerSpec | None = None
    """Who answers if it is not this project's balancer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job: one mode, its benchmarks, one run folder."""

    index: int
    """N of `_group<N>` file names inside the run folder."""
    name: str
    exp_name: str
    run_dir: str
    """$OUT_DIR/<exp_name>/hf_base/<eval_dir_name>, absolute."""
    decode: DecodeSpec
    model: ModelSpec
    tasks: tuple[TaskSpec, ...]
    resources: ResourceSpec
    client: ClientSpec
    data_dir: str | None
    identity: dict[str, object] = field(default_factory=dict)
    """What eval_dir_name was derived from; goes into the manifest."""
