"""The table of GPU resources in the documentation: how it is made, and that it is of today's kernels."""

from __future__ import annotations

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.kernels.cuda.offline import ARCHITECTURES, Compiled
from trimode.kernels.resources.__main__ import operators
from trimode.kernels.resources.cubin import Usage
from trimode.kernels.resources.table import BEGIN, END, PageError, Table, bare, digest, replaced, written_digests

PAGE = (PROJECT_DIR / "docs" / "kernels.md").read_text(encoding="utf-8")
RENEW = "renew the table: python -m trimode.kernels.resources --write docs/kernels.md"


def usage(capability: int, registers: int, mma: dict[str, int]) -> Usage:
    kernel = Compiled("_rms_norm", capability, 4, 3, 2100, b"", "")
    return Usage(kernel=kernel, registers=registers, spilled_bytes=0, programs_per_sm=8, mma=mma, copies={})


def test_the_page_has_a_row_for_every_operator_and_a_column_for_every_chip() -> None:
    table = PAGE[PAGE.index(BEGIN) : PAGE.index(END)]
    header = next(line for line in table.splitlines() if line.startswith("| operator"))
    assert [f"sm_{chip}" for chip in ARCHITECTURES] == [cell.strip() for cell in header.split("|")][5:-1]
    assert [name for name in operators() if f"| `{name}` |" not in table] == [], RENEW


@pytest.mark.parametrize("operator", operators())
def test_the_page_is_of_todays_kernels(operator: str) -> None:
    assert written_digests(PAGE).get(operator) == digest(operator), RENEW


def test_cases_of_one_kind_share_a_row() -> None:
    table = Table()
    table.add("rms_norm", "3B bfloat16", usage(80, 40, {}))
    table.add("rms_norm", "8B bfloat16", usage(80, 48, {}))
    table.add("rms_norm", "8B bfloat16", usage(90, 48, {"wgmma.mma_async": 4}))
    table.add("rms_norm", "8B float32", usage(80, 64, {}))
    lines = table.markdown().splitlines()
    assert (lines[0], lines[-1]) == (BEGIN, END)
    assert lines[5:-2] == [
        "| `rms_norm` | `rms_norm` | 16 bits | 2 | 40 to 48 regs, 2 KiB, 50 % | 48 regs, 2 KiB, 50 %, wgmma |",
        "| `rms_norm` | `rms_norm` | float32 | 1 | 64 regs, 2 KiB, 50 % |  |",
    ]
    assert written_digests(table.markdown()) == {"rms_norm": digest("rms_norm")}


def test_the_table_takes_the_place_of_the_old_one() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page, "new") == "before\nnew\nafter\n"


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_page_without_a_place_for_the_table_is_refused(page: str) -> None:
    with pytest.raises(PageError, match="each once and in this order"):
        replaced(page, "new")


def test_comments_and_docstrings_do_not_make_a_table_stale() -> None:
    source = '"""Doc."""\n\n\ndef f(x):\n    """Doc\n    more."""\n    y = "kept"  # why\n    return x + y\n'
    assert bare(source) == 'deff(x):y="kept"returnx+y'
    assert bare(source.replace("x + y", "x - y")) != bare(source)
