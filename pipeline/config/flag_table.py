"""The table of eval.sh's flags: what each one means, its default, and the setting that takes its value."""

from __future__ import annotations

from dataclasses import dataclass

from trimode.core.protocol import MODE_DEFAULTS, Mode

MODES = tuple(mode.value for mode in Mode)
ALL_MODES = (Mode.ar.value, Mode.dlm.value, Mode.linear_spec.value)
"""What `all` stands for: the modes with results of their own. The mode auto has ar's answers, only sooner."""
DEMO_MODES = (*ALL_MODES, "linear_spec_lora", Mode.auto.value)
"""Entries of conf/mode/demo.yaml."""
NULL = ("null", "none", "")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag with a value (`metavar`), or a switch (no metavar)."""

    name: str
    metavar: str | None
    default: str
    text: str
    key: str | None = None
    """Config key that takes the value; None: a rule below translates it."""
    boolean: bool = False
    """The value is true or false."""
    listed: bool = True
    """False: accepted because the public reference has it, but not in --help."""

    @property
    def dest(self) -> str:
        """Attribute of the parsed flags."""
        return self.name.removeprefix("--").replace("-", "_")


BLOCK_LENGTHS = ", ".join(f"{mode.value} {item.block_length}" for mode, item in MODE_DEFAULTS.items())
THRESHOLDS = ", ".join(
    f"{mode.value} {item.threshold:g}" for mode, item in MODE_DEFAULTS.items() if item.threshold is not None
)
"""Defaults of the modes, for help texts."""

FLAGS: dict[str, tuple[Flag, ...]] = {
    "what is evaluated": (
        Flag("--mode", "MODES", "required", "ar, dlm, linear_spec, auto, a comma list, or all (the first three)"),
        Flag("--model", "MODEL", "nvidia/Nemotron-Labs-Diffusion-8B", "checkpoint folder or hub id", "model.path"),
        Flag("--tokenizer", "DIR", "the model's own", "tokenizer folder", "model.tokenizer"),
        Flag("--quantization", "none|fp8|w8a16|w4a16", "none", "what is done to weights at load", "model.quantization"),
        Flag(
            "--weight-storage", "auto|bf16|packed12", "auto", "how plain weights lie in memory", "model.weight_storage"
        ),
        Flag("--benchmarks", "LIST", "the suite of ten", "name or name:repeats, with commas", "benchmarks"),
        Flag("--limit", "N", "all", "first N samples of each benchmark", "limit"),
        Flag("--data-dir", "DIR", "bundled, cached or downloaded", "benchmark data, DIR/<benchmark>/", "data_dir"),
        Flag(
            "--demo",
            None,
            "off",
            "the bundled model on its five benchmarks: all modes, linear_spec with LoRA, and auto",
        ),
    ),
    "decoding": (
        Flag("--tokens", "N", "8192", "tokens an answer may have", "max_new_tokens"),
        Flag("--block-length", "N", BLOCK_LENGTHS, "tokens per block, in auto at most; ar takes 1 only"),
        Flag("--threshold", "X", THRESHOLDS, "commit confidence; none: no threshold; not for ar"),
        Flag("--temperature", "X", "0", "0 is greedy", "temperature"),
        Flag("--steps", "N", "refused", "no mode has a step count", listed=False),
        Flag(
            "--enable-thinking",
            "BOOL",
            "false",
            "let the model think before it answers",
            "enable_thinking",
            boolean=True,
        ),
        Flag("--max-thinking-tokens", "N", "6000", "thinking budget; acts with thinking on", "max_thinking_tokens"),
        Flag("--no-eos-early-stop", None, "early stop on", "go on after the end token, up to --tokens"),
        Flag("--lora", None, "off", "adapter on the drafter of linear_spec and auto"),
        Flag(
            "--lora-path",
            "DIR",
            "linear_spec_lora in the model's folder or repository, else miscs/linear_spec_lora",
            "the adapter",
        ),
        Flag("--draft-lora-only", "BOOL", "false", "adds _draft_only to the folder's name", listed=False),
        Flag("--max-model-len", "N", "ar 65536, others 20480", "prompt and answer of one request at most"),
        Flag("--max-pos-emb", "N", "config.json's", "overrides the context limit of config.json"),
    ),
    "where it runs": (
        Flag(
            "--cluster", "NAME", "slurm", "conf/cluster/NAME.yaml: slurm, apptainer (images), bare (no images), local"
        ),
        Flag("--local", None, "off", "run here and wait; the same as --cluster local"),
        Flag("--device", "auto|cpu|cuda", "auto", "cpu turns --gpus into a number of CPU workers", "balancer.device"),
        Flag("--nodes", "N", "1", "nodes per job; GPUs, workers, CPUs and memory are per node", "cluster.nodes"),
        Flag("--gpus", "N", "8; with --local all that are visible", "GPUs per job", "cluster.gpus"),
        Flag("--workers", "N", "one per GPU, else 1", "workers per job", "balancer.workers"),
        Flag(
            "--batch-size",
            "N",
            "1, as the reference",
            "requests a worker decodes together; 16 or 32 are faster",
            "balancer.max_num_seqs",
        ),
        Flag(
            "--time",
            "TIME",
            "$SERVER_TIME or 04:00:00",
            "time limit of a job, as Slurm writes it",
            "cluster.time_limit",
        ),
        Flag("--jobs-per", "mode|benchmark", "mode", "what one job holds", "jobs_per"),
        Flag("--num-chunks", "N", "1", "jobs that share the samples of each benchmark", "num_chunks"),
        Flag(
            "--max-failed-share",
            "X",
            "0",
            "share of samples that may stay without an answer when servers fail; above it the job fails",
            "client.max_failed_share",
        ),
        Flag("--wait", None, "off", "return when all jobs have ended: 0 all completed, 1 any failed"),
    ),
    "a running server": (
        Flag("--server", "URL", "none", "ask this server with OpenAI's API, of any engine; starts no model"),
        Flag("--api-key-file", "FILE", "no key", "file with the server's key", "balancer.api_key_file"),
        Flag("--engine", "NAME", "server", "name of the server's engine in folder names", "balancer.engine"),
        Flag("--max-in-flight", "N", "16", "requests that the server has at a time", "balancer.max_in_flight"),
    ),
    "what Slurm is asked for": (
        Flag(
            "--partition",
            "NAME",
            "$SERVER_PARTITION or batch,backfill",
            "partition, or several with commas",
            "cluster.partition",
        ),
        Flag("--account", "NAME", "$ACCOUNT", "Slurm account", "cluster.account"),
        Flag("--image", "FILE", "$CONTAINER_IMAGE", "container image of the jobs", "cluster.container_image"),
        Flag("--qos", "NAME", "none", "quality of service", "cluster.qos"),
        Flag("--constraint", "FEATURES", "none", "features of the nodes, e.g. h100&ib", "cluster.constraint"),
        Flag("--exclusive", None, "off", "whole nodes"),
        Flag("--reservation", "NAME", "none", "reservation", "cluster.reservation"),
        Flag("--gres", "LIST", "none", "generic resources; GPUs in it replace --gpus-per-node", "cluster.gres"),
        Flag("--cpus", "N", "by the cluster's file", "CPUs of a job", "cluster.cpus_per_task"),
        Flag("--mem", "GB", "by the cluster's file", "memory of a job in GB", "cluster.mem_gb"),
        Flag("--mail-type", "LIST", "none", "when Slurm sends mail: BEGIN, END, FAIL, ALL ...", "cluster.mail_type"),
        Flag("--mail-user", "ADDRESS", "the user", "who gets the mail", "cluster.mail_user"),
        Flag("--comment", "TEXT", "by the cluster's file", "comment of the jobs", "cluster.comment"),
        Flag("--dependency", "LIST", "none", "what must have happened first: afterok:ID ...", "cluster.dependency"),
        Flag("--begin", "TIME", "now", "earliest start: now+1hour, 20:00 ...", "cluster.begin"),
        Flag("--throttle", "N", "all", "jobs of an array that run at the same time", "cluster.array_throttle"),
        Flag("--nice", "N", "0", "lowers the priority", "cluster.nice"),
        Flag("--max-requeues", "N", "10", "runs again after the time limit; 0: none", "cluster.max_requeues"),
        Flag(
            "--requeue",
            "slurm|chain",
            "slurm",
            "chain: further arrays go on, where requeueing is forbidden",
            "cluster.requeue",
        ),
        Flag("--modules", "LIST", "none", "environment modules to load, with commas"),
    ),
    "output": (
        Flag("--out-dir", "DIR", "$OUT_DIR or eval_suit_results", "results", "out_dir"),
        Flag("--exp-name", "NAME", "derived, one per mode", "subfolder of the results", "exp_name"),
        Flag("--fresh", None, "off", "a new run folder instead of resuming; nothing is deleted"),
        Flag("--take-over", None, "off", "take a run folder from an owner that cannot be asked (its host is gone)"),
        Flag("--dry-run", None, "off", "print settings, jobs and scripts; write nothing"),
        Flag("--json", None, "off", "with --dry-run: print JSON only"),
        Flag("--calibrate", None, "off", "run 16 samples per benchmark and mode: --dry-run then says what it costs"),
        Flag("--serve", None, "off", "first of all flags: serve the demo model, or --model (flags of the balancer)"),
        Flag("--doctor", None, "off", "first of all flags: check all before a run and exit (--probe, --json)"),
        Flag("--setup", "base|worker", "none", "make or update the environment and exit"),
        Flag("--status", "[logs|cancel] DIR", "none", "show how the jobs in DIR stand and exit (--watch, --json)"),
    ),
}
SERVER_ONLY = tuple(flag.dest for flag in FLAGS["a running server"][1:])
"""Flags that act with a running server only."""
SERVERS_OWN = (
    *(
        "tokenizer",
        "quantization",
        "weight_storage",
        "block_length",
        "threshold",
        "lora",
        "lora_path",
        "draft_lora_only",
    ),
    *("max_thinking_tokens", "no_eos_early_stop", "max_model_len", "max_pos_emb"),
    *("device", "gpus", "workers", "batch_size", "calibrate"),
)
"""Flags of what a running server has decided itself."""
SLURM_ONLY = tuple(flag.dest for flag in FLAGS["what Slurm is asked for"])
"""Flags without meaning for jobs on this machine."""
