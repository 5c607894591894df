"""Prints the room graph: who imports whom, how many arrows, whether two rooms import each other.

`python scripts/rooms.py` reads the imports of every source file. tests/test_architecture.py checks them.
"""

from __future__ import annotations

import ast
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("core", "pipeline", "balancer", "workers", "kernels", "recipes", "bench", "chat", "scripts", "evaluate.py")
"""Top-level folders and files with code of the product."""
SPLIT = frozenset({"pipeline", "balancer", "workers", "kernels"})
"""Folders whose files and sub-folders are rooms of their own; every other folder is one room."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target."""

    path: Path
    """The importing file."""
    line: int
    module: str
    """Dotted name of the imported module; for ours, the file that the name lies in."""
    deferred: bool
    """True if the statement stands inside a function."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.module}"


@functools.cache
def sources() -> tuple[Path, ...]:
    """Every Python file of the product, sorted."""
    found = (path for name in SOURCES for path in (ROOT / name, *(ROOT / name).rglob("*.py")))
    return tuple(sorted(path for path in found if path.suffix == ".py" and path.is_file()))


@functools.cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file; `from trimode.a import b` counts as `trimode.a.b` if b is a module."""
    functions = (node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    deferred = {id(inner) for node in functions for inner in ast.walk(node)}
    found: list[Import] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = sorted({_target(node.module or "", alias.name) for alias in node.names})
        else:
            continue
        found += [Import(path, node.lineno, name, id(node) in deferred) for name in names]
    return tuple(found)


def _target(module: str, name: str) -> str:
    inner = f"{module}.{name}".removeprefix("trimode.").replace(".", "/")
    is_module = (ROOT / f"{inner}.py").is_file() or (ROOT / inner).is_dir()
    return f"{module}.{name}" if module.split(".")[0] == "trimode" and is_module else module


def room(name: str) -> str:
    """The room of a dotted name without `trimode.`: `pipeline.plan.jobs` lies in `pipeline/plan`."""
    parts = name.split(".")
    return "/".join(parts[: 2 if parts[0] in SPLIT else 1])


def room_of(path: Path) -> str:
    """The room of a file."""
    inner = path.relative_to(ROOT).with_suffix("")
    return room(".".join(inner.parts).removesuffix(".__init__"))


@functools.cache
def graph() -> dict[str, dict[str, list[Import]]]:
    """Imports between rooms: importing room -> imported room -> the statements."""
    edges: dict[str, dict[str, list[Import]]] = {}
    for path in sources():
        here = room_of(path)
        edges.setdefault(here, {})
        for found in imports(path):
            if found.module.split(".")[0] != "trimode" or found.module == "trimode":
                continue
            there = room(found.module.removeprefix("trimode."))
            if there != here:
                edges[here].setdefault(there, []).append(found)
    return edges


def mutual(edges: dict[str, dict[str, list[Import]]]) -> list[tuple[str, str]]:
    """Pairs of rooms that import each other."""
    return [(a, b) for a in edges for b in edges[a] if a < b and a in edges.get(b, {})]


def floors(edges: dict[str, dict[str, list[Import]]]) -> dict[str, int]:
    """The floor of each room: 0 imports nothing of ours, others stand one above the highest that they import.

    Raises ValueError when rooms import each other in a circle, so that no such order exists.
    """
    found: dict[str, int] = {}

    def visit(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"rooms import each other in a circle: {' -> '.join([*above, name])}")
        if name not in found:
            found[name] = max((visit(other, (*above, name)) + 1 for other in edges.get(name, {})), default=0)
        return found[name]

    for name in edges:
        visit(name, ())
    return found


def main() -> int:
    """Prints the graph, one room per line, from the lowest floor up."""
    edges = graph()
    order = floors(edges)
    for name in sorted(edges, key=lambda name: (order[name], name)):
        print(f"{order[name]:2} {name:<26} {', '.join(sorted(edges[name])) or '-'}")
    arrows = sum(len(targets) for targets in edges.values())
    inside = [name for name in edges if name.startswith("pipeline/")]
    within = sum(target.startswith("pipeline/") for name in inside for target in edges[name])
    print(f"\n{len(edges)} rooms, {arrows} arrows, {len(mutual(edges))} pairs that import each other, none upwards")
    print(f"within pipeline: {len(inside)} rooms, {within} arrows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
