"""Command line of evaluate.py: turns flags into the pipeline's overrides and plans one job per task.

Fetches missing data here, before the model loads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Quantization, WeightStorage
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.config.checks import check
from trimode.pipeline.config.compose import compose
from trimode.pipeline.config.flag_table import BLOCK_LENGTHS, THRESHOLDS
from trimode.pipeline.config.schema import Config
from trimode.pipeline.data.hub import Tasks, ensure_rows
from trimode.pipeline.launch.preflight import preflight
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.rounds import continue_or_start
from trimode.pipeline.plan.survey import survey
from trimode.pipeline.spec import JobSpec

DEFAULT_MODEL = "nvidia/Nemotron-Labs-Diffusion-8B"
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def parse(argv: Sequence[str], tasks: Tasks) -> argparse.Namespace:
    """Returns the parsed command line. Exits with 2 for an unknown flag."""
    about = "Evaluates one mode on some tasks, in this process."
    parser = argparse.ArgumentParser(prog="evaluate.py", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help=f"checkpoint folder or hub id (default: {DEFAULT_MODEL})")
    add("--tokenizer", help="tokenizer folder (default: the model's own)")
    add("--mode", choices=("ar", "dlm", "linear_spec", "auto"), default="dlm", help="default: dlm")
    add("--tasks", nargs="+", default=["gsm8k"], help=f"with blanks or commas: {', '.join(tasks)} (default: gsm8k)")
    add("--lora", action="store_true", help="adapter on the drafter; linear_spec and auto only")
    add(
        "--lora-path", help="default: linear_spec_lora in the model's folder or repository, else miscs/linear_spec_lora"
    )
    add("--limit", type=int, help="first samples of each task only")
    add("--max-new-tokens", type=int, default=512, help="default: 512")
    add("--block-length", type=int, help=f"default: {BLOCK_LENGTHS}")
    add("--threshold", type=float, help=f"commit confidence (default: {THRESHOLDS}; ar has none)")
    add("--enable-thinking", action="store_true")
    add("--max-thinking-tokens", type=int, default=6000, help="thinking budget; acts with --enable-thinking only")
    add("--temperature", type=float, default=0.0, help="default: 0 (greedy)")
    add("--seed", type=int, default=0, help="default: 0")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto: cuda where there is one, else cpu")
    add("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="default: bf16; fp16 is refused")
    add(
        "--quantization",
        choices=[scheme.value for scheme in Quantization],
        default="none",
        help="what is done to the weights of the layers at load (default: none)",
    )
    add(
        "--weight-storage",
        choices=[storage.value for storage in WeightStorage],
        default="auto",
        help="how plain bfloat16 weights are held in memory; packed12: 12 bits each, without loss (default: auto)",
    )
    add("--quantize-head", action="store_true", help="quantise the head too")
    add(
        "--batch-invariant",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="answers that do not depend on the samples decoded together, where a slower kernel can promise it",
    )
    add("--max-num-seqs", type=int, default=32, help="samples decoded together (default: 32)")
    add("--print-every", type=int, default=50, help="samples between two progress lines (default: 50)")
    add("--output", type=Path, help="JSON with the arguments and one entry per task")
    add("--data-dir", help="folder with one folder of data per benchmark (default: $TRIMODE_DATA_DIR, cache, hub)")
    add("--out-dir", help="where samples are kept (default: $OUT_DIR, else ./eval_suit_results)")
    add("--fresh", action="store_true", help="a new folder instead of going on in the earlier one")
    add("--take-over", action="store_true", help="take the folder from an owner on a host that is gone")
    return parser.parse_args(argv)


def plan_jobs(args: argparse.Namespace, tasks: Tasks) -> tuple[Config, list[JobSpec]]:
    """Returns the config and one job per task. Raises ConfigError for whatever cannot run."""
    names = list(dict.fromkeys(name for item in args.tasks for name in item.split(",") if name))
    if unknown := [name for name in names if name not in tasks]:
        raise ConfigError(f"unknown task: got {', '.join(unknown)}; valid: {', '.join(tasks)}")
    if args.dtype not in DTYPES:
        raise ConfigError("dtype: got fp16; valid: bf16, fp32 (the weights are bf16, whose range fp16 lacks)")
    if args.lora_path is not None and not args.lora:
        raise ConfigError(f"--lora-path acts with --lora: got {args.lora_path} alone")
    if args.print_every < 1:
        raise ConfigError(f"--print-every: got {args.print_every}; valid: a whole number from 1")
    config = compose(overrides(args, names))
    check(config)
    data_dir = Path(args.data_dir) if args.data_dir else None
    for name in names:
        ensure_rows(load_benchmark(name), data_dir, tasks[name])
    found = survey(config, Path.cwd())
    states = continue_or_start(plan(config, found), config.fresh)
    for note in dict.fromkeys(state.note for state in states if state.note):
        print(f"note: {note}; used instead: {states[0].spec.run_dir}", file=sys.stderr)
    jobs = [state.spec for state in states]
    preflight(config, found, jobs)
    return config, jobs


def overrides(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Returns the choices of the command line as Hydra overrides of the pipeline."""
    mode = f"modes.{args.mode}"
    values: dict[str, object] = {
        f"{mode}.block_length": args.block_length,
        f"{mode}.threshold": args.threshold,
        f"{mode}.lora": args.lora,
        "benchmarks": list(names),
        "model.path": args.model,
        "model.tokenizer": args.tokenizer,
        "model.dtype": DTYPES[args.dtype],
        "model.quantization": args.quantization,
        "model.quantize_head": args.quantize_head,
        "model.weight_storage": args.weight_storage,
        "model.batch_invariant": args.batch_invariant,
        "model.lora_path": args.lora_path,
        "balancer.device": args.device,
        "balancer.max_num_seqs": args.max_num_seqs,
        "client.max_concurrent_requests": 2 * args.max_num_seqs,
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "starting_seed": args.seed,
        "enable_thinking": args.enable_thinking,
        "max_thinking_tokens": args.max_thinking_tokens,
        "limit": args.limit,
        "data_dir": args.data_dir,
        "out_dir": args.out_dir,
        "fresh": args.fresh,
    }
    given = [f"{name}={json.dumps(value)}" for name, value in values.items() if value is not None]
    return [f"mode={args.mode}", "cluster=local", "jobs_per=benchmark", *given]
