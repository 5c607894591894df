"""The house's rules, held by reading the sources: who may import whom, sizes, docstrings, names, packaging."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("core", "pipeline", "balancer", "workers", "kernels", "recipes", "chat", "bench", "evaluate.py")
OURS = {"core", "pipeline", "balancer", "workers", "kernels", "conf", "recipes", "chat", "bench", "tests", "containers"}
LOGIN_NODE_BANS = {"torch", "ray", "transformers", "peft", "safetensors", "triton", "tokenizers", "llvmlite"}
MAY_IMPORT = {
    "core": {"core"},
    "pipeline": {"pipeline", "core", "conf"},
    "balancer": {"balancer", "core"},
    "workers": {"workers", "core", "kernels"},
    "kernels": {"kernels"},
}
ONLY_IN = {
    "ray": "balancer",
    "uvicorn": "balancer",
    "starlette": "balancer",
    "hydra": "pipeline",
    "omegaconf": "pipeline",
    "submitit": "pipeline",
    "triton": "kernels",
    "llvmlite": "kernels",
}
BANNED_NAMES = re.compile(r"^(utils|common|helpers|misc)$|_v\d+$")


@functools.cache
def sources() -> tuple[Path, ...]:
    """Every tracked or new Python file of the product."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return tuple(ROOT / name for name in sorted(listed) if name.startswith(SOURCE_ROOTS) and (ROOT / name).exists())


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, inside a function) of every import statement."""
    deferred = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) in deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno, id(node) in deferred
            if (node.module or "").startswith("trimode"):
                yield from ((f"{node.module}.{alias.name}", node.lineno, id(node) in deferred) for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_there_are_sources() -> None:
    assert {room(path) for path in sources()} >= {"pipeline", "balancer", "workers", "kernels", "recipes"}


def test_nothing_of_ours_is_imported_bare() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources()
        for module, line, _ in imports(path)
        if module.split(".")[0] in OURS - {"chat"} | {"evaluate"}
    ]
    assert bare == []


def test_layers() -> None:
    wrong = []
    for path in sources():
        allowed = MAY_IMPORT.get(room(path))
        for module, line, _ in imports(path):
            if allowed is None or not module.startswith("trimode."):
                continue
            inner = module.removeprefix("trimode.")
            if not any(inner == a or inner.startswith(f"{a}.") or a.startswith(f"{inner}.") for a in allowed):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {module}")
    assert wrong == []


def test_core_needs_the_standard_library_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources()
        for module, line, _ in imports(path)
        if room(path) == "core" and module.split(".")[0] not in {*sys.stdlib_module_names, "trimode"}
    ]
    assert wrong == []


def test_third_parties_stay_in_their_rooms() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources()
        for module, line, _ in imports(path)
        if room(path) in MAY_IMPORT and module.split(".")[0] in ONLY_IN and ONLY_IN[module.split(".")[0]] != room(path)
    ]
    assert wrong == []


def test_pipeline_imports_nothing_a_login_node_lacks() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sources()
        for module, line, deferred in imports(path)
        if room(path) == "pipeline" and not deferred and module.split(".")[0] in LOGIN_NODE_BANS
    ]
    assert wrong == []


def test_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    names = {
        "trimode." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources()
    }
    for name, path in names.items():
        found = {module for module, _, deferred in imports(path) if module in names and not deferred}
        # `from package import module` needs the module, not what the package's __init__ gathers.
        graph[name] = {m for m in found if not any(other.startswith(f"{m}.") for other in found)} - {name}
    state: dict[str, int] = {}

    def visit(name: str, above: list[str]) -> None:
        state[name] = 1
        for target in graph[name]:
            assert state.get(target) != 1, f"import cycle: {' -> '.join([*above, name, target])}"
            if target not in state:
                visit(target, [*above, name])
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name, [])


@pytest.mark.parametrize("limit", [300])
def test_files_are_short(limit: int) -> None:
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := p.read_text().count("\n")) > limit}
    assert long == {}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short_and_take_few_parameters() -> None:
    wrong = []
    for path in sources():
        for node in functions(path):
            kernel = any("jit" in ast.dump(decorator) for decorator in node.decorator_list)
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([a for a in arguments if a.arg not in ("self", "cls")])
            where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            if lines > (120 if kernel else 60):
                wrong.append(f"{where}: {lines} lines")
            if count > 7 and not kernel:
                wrong.append(f"{where}: {count} parameters")
    assert wrong == []


def test_every_file_says_what_it_is() -> None:
    assert [
        str(p.relative_to(ROOT)) for p in sources() if p.read_text().strip() and not ast.get_docstring(tree(p))
    ] == []


def test_names() -> None:
    wrong = [
        str(p.relative_to(ROOT))
        for p in sources()
        if any(BANNED_NAMES.search(part) for part in p.with_suffix("").parts[len(ROOT.parts) :])
    ]
    assert wrong == []


def test_catch_alls_stand_at_the_named_boundaries_only() -> None:
    """`except Exception` at the job, one request in the engine, one row in a scorer, and where Ray raises no finer."""
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        if room(path) in MAY_IMPORT
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    }
    assert {path for path in found if not path.startswith("pipeline/scoring/")} <= {
        "pipeline/job/run.py",
        "workers/engine/scheduler.py",
        "balancer/actors/ray_head.py",
    }


def test_no_literal_types_and_no_open_ends() -> None:
    wrong = []
    for path in sources():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b", line) and "http" not in line:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert wrong == []


def test_every_package_is_in_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    inits = {p.parent.relative_to(ROOT) for p in ROOT.glob("**/__init__.py") if not p.is_relative_to(ROOT / ".venv")}
    shipped = {"core", "pipeline", "balancer", "workers", "kernels", "conf", "recipes"}
    expected = {"trimode." + ".".join(p.parts) for p in inits if p.parts and p.parts[0] in shipped} | {"trimode"}
    assert listed == expected


def test_tests_is_no_package() -> None:
    assert [str(p) for p in (ROOT / "tests").glob("**/__init__.py")] == []


@pytest.mark.parametrize("module", ["trimode.pipeline.eval", "trimode.pipeline.report", "trimode.pipeline.rescore"])
def test_the_login_node_s_modules_load_without_torch_and_ray(module: str) -> None:
    code = f"import sys; import {module}; print(sorted({LOGIN_NODE_BANS!r} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(ROOT / ".types"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workers_and_kernels_load_without_ray_and_hydra() -> None:
    code = "import sys; import trimode.workers.worker; print(sorted({'ray','hydra','omegaconf'} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(ROOT / ".types"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_readme_names_every_file() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme_tree.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout in (ROOT / "README.md").read_text(), "run: python scripts/readme_tree.py --write"
