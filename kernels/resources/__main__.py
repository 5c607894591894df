"""Prints what every Triton kernel needs of a chip: python -m trimode.kernels.resources [--arch 90] [--op rms_norm].

`--write docs/kernels.md` also puts a summary into the page, if no kernel is unfit.

Every configuration that the product can choose is compiled for each chip; no GPU is needed. The exit status is 1 if a
kernel spills registers, needs more shared memory than the chip has, or multiplies matrices without matrix
instructions.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trimode.core.command import UNREAD, run_command
from trimode.kernels import resources
from trimode.kernels.cuda import offline
from trimode.kernels.resources.cases import Case
from trimode.kernels.resources.cubin import Usage, usage
from trimode.kernels.resources.table import PageError, Table, replaced

NOT_OPERATORS = frozenset({"cases", "cubin", "table", "__main__"})
HEADER = "| operator | kernel | chip | registers | spilled | shared | programs/SM | occupancy | MMA | copies | cases |"


def operators() -> list[str]:
    """Returns the operators that have GPU kernels."""
    return sorted({module.name for module in pkgutil.iter_modules(resources.__path__)} - NOT_OPERATORS)


def compiled(operator: str, capability: int) -> Iterator[tuple[Case, Usage]]:
    """Compiles an operator's cases for a chip. Yields each kernel of each case with its resources."""
    module = importlib.import_module(f"trimode.kernels.resources.{operator}")
    known: dict[bytes, Usage] = {}
    for case in module.cases():
        with offline.compiling(capability) as kernels:
            case.call()
        if not kernels:
            raise offline.CompileError(f"{operator} ({case.label}): no kernel was launched for sm_{capability}")
        for kernel in kernels:
            if kernel.cubin not in known:
                known[kernel.cubin] = usage(kernel)
            yield case, known[kernel.cubin]


def _counts(found: dict[str, int]) -> str:
    return " ".join(f"{count} {name}" for name, count in found.items()) or "-"


def _row(operator: str, used: Usage, labels: Sequence[str]) -> str:
    kernel = used.kernel
    cells = (
        operator, kernel.name.strip("_"), f"sm_{kernel.capability}", used.registers, used.spilled_bytes,
        kernel.shared_bytes, used.programs_per_sm, f"{used.occupancy:.0%}", _counts(used.mma), _counts(used.copies),
        ", ".join(labels),
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trimode.kernels.resources", description=__doc__)
    parser.add_argument("--arch", type=int, nargs="+", choices=offline.ARCHITECTURES, default=offline.ARCHITECTURES)
    parser.add_argument("--op", nargs="+", choices=operators(), default=operators())
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put a summary of all kernels into this page too")
    options = parser.parse_args(argv)
    if options.write and (options.op != operators() or tuple(options.arch) != offline.ARCHITECTURES):
        parser.error("--write needs all operators and chips: leave out --op and --arch")
    table = Table()
    problems: list[str] = []
    print(HEADER, "|---" * HEADER.count(" | ") + "|---|", sep="\n")
    for operator in options.op:
        for capability in options.arch:
            rows: dict[bytes, tuple[Usage, list[str]]] = {}
            try:
                for case, used in compiled(operator, capability):
                    table.add(operator, case.label, used)
                    _, labels = rows.setdefault(used.kernel.cubin, (used, []))
                    labels += [case.label] if case.label not in labels else []
                    needs_mma = case.needs_mma and used.kernel.name not in case.without_mma
                    problems += [
                        f"{operator} ({case.label}), {used.kernel.name} for sm_{capability}: {problem}"
                        for problem in used.problems(needs_mma=needs_mma, streams=used.kernel.name in case.streaming)
                    ]
            except offline.CompileError as error:
                problems.append(f"{operator}: {error}")
            for used, labels in rows.values():
                print(_row(operator, used, labels), flush=True)
    for problem in dict.fromkeys(problems):
        print(f"error: {problem}", file=sys.stderr)
    if options.write and not problems:
        try:
            options.write.write_text(replaced(options.write.read_text(encoding="utf-8"), table.markdown()))
        except (OSError, PageError) as error:
            print(f"error: {options.write}: {error}", file=sys.stderr)
            return 1
    return 1 if problems else 0


if __name__ == "__main__":
    run_command(main, unfinished=UNREAD)
