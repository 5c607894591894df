"""The table of modes, and what importing it costs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from trimode.core.protocol import MODE_DEFAULTS, Mode
from trimode.workers.decode.registry import MODES

ROOT = Path(__file__).resolve().parents[3]


def test_every_mode_has_a_state_with_its_defaults() -> None:
    assert list(MODES) == [mode.value for mode in Mode]
    assert {name: state.defaults for name, state in MODES.items()} == MODE_DEFAULTS


def test_decode_imports_nothing_but_the_standard_library_and_ours() -> None:
    """So the states run without torch. Follows the imports of our own modules and of the packages around them."""
    waiting = {f"trimode.workers.decode.{path.stem}" for path in (ROOT / "workers" / "decode").glob("*.py")}
    seen: set[str] = set()
    others: set[str] = set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for imported in imports(module):
            (waiting if imported.startswith("trimode") else others).add(imported)
        waiting -= seen
    assert "trimode.core.protocol" in seen
    assert {name.split(".")[0] for name in others} <= sys.stdlib_module_names


def imports(module: str) -> Iterator[str]:
    """Modules that importing `module` of this project runs, its parent packages included. Empty for a name in one."""
    inner = ROOT.joinpath(*module.split(".")[1:])
    source = inner.with_suffix(".py") if inner.with_suffix(".py").exists() else inner / "__init__.py"
    if "." in module:
        yield module.rpartition(".")[0]
    if not source.exists():
        return
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            if node.module.startswith("trimode"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
