"""The table of resources in the documentation: written between two marker lines, and which sources it was made from."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import tokenize
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trimode.kernels.resources.cubin import Usage

BEGIN, END = "<!-- resources: begin -->", "<!-- resources: end -->"
KERNELS = Path(__file__).parents[1]
KINDS = {
    "bfloat16": "16 bits", "float16": "16 bits", "float32": "float32", "plain": "plain", "fp8": "fp8", "w4a16": "w4a16",
}  # fmt: skip
"""Words of a case's label that set rows of the table apart, and what the table says."""
LAUNCHES = re.compile(r"^@jit|\blaunch\(", re.MULTILINE)
"""What files with kernels or their launches hold."""
BLANK = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)
SHORT = {"mma.sync": "mma", "wgmma.mma_async": "wgmma", "tcgen05.mma": "tcgen05"}


class PageError(Exception):
    """The page has no place for the table."""


@dataclass(slots=True)
class Row:
    """One kernel, in all cases of one kind."""

    labels: set[str] = field(default_factory=set)
    chips: dict[int, list[Usage]] = field(default_factory=dict)


class Table:
    """Collects what kernels use, case by case."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}

    def add(self, operator: str, label: str, used: Usage) -> None:
        """Adds one kernel of one case."""
        kind = ", ".join(shown for word, shown in KINDS.items() if word in label.split())
        row = self._rows.setdefault((operator, used.kernel.name.strip("_"), kind), Row())
        row.labels.add(label)
        row.chips.setdefault(used.kernel.capability, []).append(used)

    def markdown(self) -> str:
        """Returns the table with a line that names its sources, from the first marker to the last."""
        chips = sorted({chip for row in self._rows.values() for chip in row.chips})
        operators = sorted({operator for operator, _, _ in self._rows})
        header = ["operator", "kernel", "numbers", "cases", *(f"sm_{chip}" for chip in chips)]
        lines = [header, ["---"] * len(header)]
        for (operator, kernel, kind), row in sorted(self._rows.items()):
            cells = [summary(row.chips[chip]) if chip in row.chips else "" for chip in chips]
            lines.append([f"`{operator}`", f"`{kernel}`", kind, str(len(row.labels)), *cells])
        sources = ", ".join(f"{operator} {digest(operator)}" for operator in operators)
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"{BEGIN}\n<!-- sources: {sources} -->\n\n{table}\n\n{END}"


def summary(used: Sequence[Usage]) -> str:
    """Returns one cell: registers, shared memory and occupancy from the least to the most, and the matrix units."""
    kinds = {SHORT.get(name, name) for usage in used for name in usage.mma}
    shared = _range(round(usage.kernel.shared_bytes / 1024) for usage in used)
    parts = [
        f"{_range(usage.registers for usage in used)} regs",
        *([] if shared == "0" else [f"{shared} KiB"]),
        f"{_range(round(100 * usage.occupancy) for usage in used)} %",
        *sorted(kinds),
    ]
    return ", ".join(parts)


def _range(numbers: Iterable[int]) -> str:
    found = sorted(numbers)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def replaced(page: str, table: str) -> str:
    """Returns the page with the table in place of what stands between the markers.

    Raises:
        PageError: the page does not have both markers, each once and in order.
    """
    start, end = page.find(BEGIN), page.find(END)
    if page.count(BEGIN) != 1 or page.count(END) != 1 or end < start:
        raise PageError(f"the page needs the lines {BEGIN} and {END}, each once and in this order")
    return page[:start] + table + page[end + len(END) :]


def written_digests(page: str) -> dict[str, str]:
    """Returns the operators that the page's table is of, each with the digest of the sources it was made from."""
    found = re.search(r"<!-- sources: (.*) -->", page)
    return dict(entry.split() for entry in found.group(1).split(", ")) if found else {}


def digest(operator: str) -> str:
    """Returns a short hash of the code of an operator's GPU kernels and of its cases.

    Comments, docstrings and blank space do not count, so that only what may change the table makes it stale.
    """
    folder = sorted((KERNELS / operator).glob("*.py"))
    kernels = [
        path for path in folder if re.search(r"^@jit|\blaunch\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    total = hashlib.sha256()
    for path in (*kernels, KERNELS / "resources" / f"{operator}.py"):
        total.update(bare(path.read_text(encoding="utf-8")).encode())
    return total.hexdigest()[:12]


def bare(source: str) -> str:
    """Returns Python source without its docstrings, its comments and all blank space."""
    found: list[str] = []
    begins = True
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in BLANK]
    for token, following in itertools.pairwise(tokens):
        is_statement = begins and token.type == tokenize.STRING and following.type == tokenize.NEWLINE
        begins = token.type == tokenize.NEWLINE
        if not is_statement:
            found += token.string.split()
    return "".join(found)
