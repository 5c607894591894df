"""Runs one section in this process: what `python -m trimode.bench.gpu` starts."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from trimode.bench.gpu.context import Bench
from trimode.bench.gpu.plan import DRY, REAL
from trimode.bench.gpu.records import read
from trimode.bench.gpu.sections import SECTIONS
from trimode.core.command import run_command
from trimode.kernels.cuda import runtime


def main() -> int:
    """Command line. Returns 1 where a GPU is needed and none is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[section.name for section in SECTIONS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("deadline", type=float)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("error: no GPU is visible; `bash bench/gpu.sh --dry-run` runs without one", file=sys.stderr)
        return 1
    before = SECTIONS[: [section.name for section in SECTIONS].index(options.name)]
    bench = Bench(
        plan=DRY if options.dry_run else REAL,
        device=torch.device("cpu") if options.dry_run else torch.device("cuda", 0),
        deadline=options.deadline,
        file=options.folder / f"{options.name}.jsonl",
        earlier=read(options.folder / f"{section.name}.jsonl" for section in before),
    )
    torch.manual_seed(0)
    module = importlib.import_module(f"trimode.bench.gpu.{options.name}")
    interpreted = options.dry_run and runtime.is_interpreter()
    if interpreted and is_interpreter_broken():
        bench.note("fact", f"{options.name}: the references run; Triton's interpreter needs numpy < 2.4 here")
        interpreted = False
    with runtime.interpreted() if interpreted else contextlib.nullcontext():
        module.run(bench)
    return 0


def is_interpreter_broken() -> bool:
    """Returns True if Triton's interpreter fails at loops with bounds of tensors (triton-lang/triton issue 9171)."""
    numpy_version, triton_version = (
        [int(part) for part in version(name).split(".")[:2]] for name in ("numpy", "triton")
    )
    return triton_version < [3, 7] and numpy_version >= [2, 4]


if __name__ == "__main__":
    run_command(main)
