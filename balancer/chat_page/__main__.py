"""`python -m trimode.balancer.chat_page --out chat.html` writes the chat page as one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trimode.balancer.chat_page.page import page
from trimode.core.command import run_command
from trimode.core.errors import guarded
from trimode.core.files import write_text_atomic


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file. Returns 0, or 2 if it cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m trimode.balancer.chat_page",
        description="Writes the chat page as one HTML file, which opens from disk and speaks with a server you name.",
    )
    parser.add_argument("--out", type=Path, default=Path("chat.html"), help="the file to write (chat.html)")
    out: Path = parser.parse_args(argv).out
    return guarded(lambda: _write(out))


def _write(out: Path) -> int:
    write_text_atomic(out, page())
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    run_command(main)
