"""Command line of the data package: `python -m trimode.pipeline.data prepare NAME...`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trimode.core.command import UNREAD, run_command
from trimode.core.errors import USER_ERROR, ConfigError, guarded
from trimode.pipeline.benchmarks import benchmark_names
from trimode.pipeline.data.prepare import PrepareOptions, prepare
from trimode.pipeline.data.sources import SOURCES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trimode.pipeline.data", description="Benchmark data.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "prepare",
        help="download, check and convert data, or take files already there",
        epilog=f"names: all, {', '.join(SOURCES)}. gpqa is gated: it needs HF_TOKEN and its terms accepted.",
    )
    command.add_argument("names", nargs="+", metavar="NAME", help="benchmark, nltk_punkt, or all")
    command.add_argument(
        "--data-dir", type=Path, help="data folder (default: $TRIMODE_DATA_DIR, else ~/.cache/trimode/data)"
    )
    command.add_argument(
        "--mirror",
        default=os.environ.get("TRIMODE_DATA_MIRROR"),
        help="base URL of a data folder to download from instead (default: $TRIMODE_DATA_MIRROR)",
    )
    command.add_argument("--any-version", action="store_true", help="take files with another checksum or row count")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares every name, even after one failed. Returns 0, or 2 if the user must act on a name."""
    args = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return guarded(lambda: prepare_all(args))


def prepare_all(args: argparse.Namespace) -> int:
    """Everything after parsing; returns the exit status. Raises ConfigError for a name nobody knows."""
    names = list(SOURCES) if args.names == ["all"] else args.names
    if unknown := [name for name in names if name not in SOURCES and name not in benchmark_names()]:
        raise ConfigError(f"unknown name: got {', '.join(unknown)}; valid: all, {', '.join(SOURCES)}")
    options = PrepareOptions(data_dir=args.data_dir, mirror=args.mirror, any_version=args.any_version)
    failed = False
    for name in names:
        try:
            print(prepare(name, options), flush=True)
        except ConfigError as error:
            failed = True
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
    return USER_ERROR if failed else 0


if __name__ == "__main__":
    run_command(main, unfinished=UNREAD)
