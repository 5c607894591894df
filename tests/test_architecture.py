"""The rules of the code base, held by reading the sources: who may import whom, sizes, docstrings, names, packaging."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.scripts.rooms import ROOT, SOURCES, floors, graph, imports, mutual, room_of, sources, tree

PIPELINE = "pipeline/"
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    # kernels: an operator may use the compilers, never another operator
    "kernels": {"kernels"},
    "kernels/describe": {"kernels"},
    "kernels/resources": {"kernels", "core"},
    "kernels/llvm": set(),
    "kernels/cuda": set(),
    "kernels/packing": set(),
    "kernels/best_token": {"kernels/llvm", "kernels/cuda"},
    "kernels/confidence_commit": {"kernels/llvm", "kernels/cuda"},
    "kernels/draw": {"kernels/llvm", "kernels/cuda"},
    "kernels/linear": {"kernels/llvm", "kernels/cuda"},
    "kernels/low_rank": {"kernels/llvm", "kernels/cuda"},
    "kernels/paged_attention": {"kernels/llvm", "kernels/cuda", "kernels/packing"},
    "kernels/prefix_verify": {"kernels/llvm", "kernels/cuda"},
    "kernels/rms_norm": {"kernels/llvm", "kernels/cuda"},
    "kernels/rope": {"kernels/llvm", "kernels/cuda"},
    "kernels/silu_mul": {"kernels/llvm", "kernels/cuda"},
    # workers: decoding modes know neither the model nor the engine
    "workers": set(),
    "workers/boundary": {"core"},
    "workers/decode": {"core"},
    "workers/params": {"core", "workers/decode"},
    "workers/vocabulary": set(),
    "workers/text": {"core", "workers/boundary", "workers/decode", "workers/vocabulary"},
    "workers/model": {"core", "kernels", "workers/decode"},
    "workers/sampling": {"core", "kernels", "workers/decode", "workers/model"},
    "workers/engine": {
        "core",
        "kernels/packing",
        *("workers/" + name for name in ("boundary", "decode", "model", "sampling", "params")),
    },
    "workers/result": {"core", "workers/engine", "workers/text"},
    "workers/runtime": {
        "core",
        "kernels",
        *("workers/" + name for name in ("boundary", "decode", "engine", "model", "params", "result", "text")),
    },
    "workers/hf": {
        "core",
        *("workers/" + name for name in ("boundary", "decode", "model", "params", "runtime", "sampling", "text")),
    },
    "workers/stream": {"core", *("workers/" + name for name in ("decode", "engine", "runtime", "text"))},
    "workers/journal": {"core", "workers/engine"},
    "workers/worker": {
        "core",
        *("workers/" + name for name in ("boundary", "engine", "journal", "params", "runtime", "stream")),
    },
    "workers/rows": {"core"},
    "workers/fetch": {"core"},
    "workers/quantize": {"core", "kernels", "workers/model", "workers/runtime"},
    "workers/generate": {"core", *("workers/" + name for name in ("boundary", "engine", "hf", "rows", "runtime"))},
    # balancer: the worker class is handed in by name
    "balancer": set(),
    "balancer/delivered": {"core"},
    "balancer/prefixes": set(),
    "balancer/expected": set(),
    "balancer/health": set(),
    "balancer/work": {"core", *("balancer/" + name for name in ("delivered", "health", "prefixes"))},
    "balancer/router": {
        "core",
        *("balancer/" + name for name in ("delivered", "expected", "health", "prefixes", "work")),
    },
    "balancer/settings": {"core"},
    "balancer/placement": {"core", "balancer/settings"},
    "balancer/chat_page": {"core"},
    "balancer/api": {"core", *("balancer/" + name for name in ("work", "router", "chat_page"))},
    "balancer/actors": {"core", *("balancer/" + name for name in ("work", "router", "settings", "placement"))},
    "balancer/server": {
        "core",
        *("balancer/" + name for name in ("work", "settings", "placement", "api", "actors")),
    },
    "balancer/join": {"core", "balancer/actors"},
    "balancer/__main__": {"core", "balancer/settings", "balancer/placement", "balancer/actors"},
    # pipeline: no workers, no balancer
    "pipeline": set(),
    "pipeline/spec": {"core"},
    "pipeline/benchmarks": {"core", "pipeline/spec"},
    "pipeline/run_folder": {"core", "pipeline/spec"},
    "pipeline/slurm": {"core", "pipeline/spec"},
    "pipeline/server": {"core", "pipeline/spec"},
    "pipeline/data": {"core", "pipeline/spec", "pipeline/benchmarks"},
    "pipeline/config": {"core", "pipeline/spec", "pipeline/benchmarks"},
    "pipeline/console": {"core", "pipeline/run_folder"},
    "pipeline/scoring": {"core", "pipeline/benchmarks", "pipeline/data"},
    "pipeline/plan": {
        "core",
        *(PIPELINE + name for name in ("spec", "benchmarks", "config", "run_folder", "server")),
    },
    "pipeline/client": {
        "core",
        *(PIPELINE + name for name in ("spec", "benchmarks", "data", "scoring", "run_folder", "console", "server")),
    },
    "pipeline/analysis": {
        "core",
        *(PIPELINE + name for name in ("spec", "benchmarks", "run_folder", "scoring")),
    },
    "pipeline/launch": {
        "core",
        *(PIPELINE + name for name in ("spec", "benchmarks", "data", "config", "plan", "slurm", "run_folder")),
        *(PIPELINE + name for name in ("console", "client", "server")),
    },
    "pipeline/job": {"core", *(PIPELINE + name for name in ("spec", "run_folder", "console", "client", "server"))},
    "pipeline/compare": {"core", "pipeline/analysis"},
    "pipeline/report": {
        "core",
        *(PIPELINE + name for name in ("analysis", "benchmarks", "data", "scoring", "run_folder")),
    },
    "pipeline/doctor": {
        "core",
        *(PIPELINE + name for name in ("spec", "config", "plan", "launch", "slurm")),
    },
    "pipeline/status": {"core", "pipeline/launch", "pipeline/run_folder"},
    "pipeline/rescore": {"core", *(PIPELINE + name for name in ("benchmarks", "scoring", "launch"))},
    "pipeline/in_process": {
        "core",
        *(PIPELINE + name for name in ("spec", "benchmarks", "data", "config", "plan", "launch", "run_folder")),
        *(PIPELINE + name for name in ("console", "client", "scoring")),
    },
    "pipeline/price": {
        "core",
        *(PIPELINE + name for name in ("spec", "config", "plan", "run_folder", "console", "analysis")),
    },
    "pipeline/sweep": {
        "core",
        *(PIPELINE + name for name in ("spec", "config", "plan", "launch", "run_folder", "price")),
    },
    "pipeline/eval": {"core", "pipeline/config", "pipeline/sweep"},
    "pipeline/__main__": {"core", "pipeline/config", "pipeline/sweep"},
    # commands and recipes
    "evaluate": {"core", "workers/worker", "pipeline/in_process"},
    "chat": {
        "core",
        *(PIPELINE + name for name in ("spec", "server")),
        *("workers/" + name for name in ("decode", "runtime", "worker")),
    },
    "recipes": {"core", "pipeline/benchmarks", "pipeline/scoring", "workers/generate", "workers/runtime"},
    "bench": {
        "core",
        "kernels",
        *(PIPELINE + name for name in ("analysis", "benchmarks", "data", "run_folder", "scoring", "slurm")),
        *("workers/" + name for name in ("decode", "engine", "journal", "model", "runtime", "sampling")),
    },
    "scripts": set(),
}
"""What each room may import of ours. `kernels` stands for all operators and the compiler. A new room needs a line."""

NARROW = {
    ("kernels/resources", "core"): "core.command",
    ("workers/model", "workers/decode"): "workers.decode.chunk",
    ("workers/sampling", "workers/decode"): "workers.decode.chunk",
    ("workers/sampling", "workers/model"): "workers.model.batch",
    ("workers/journal", "workers/engine"): "workers.engine.scheduler",
    ("pipeline/rescore", "pipeline/launch"): "pipeline.launch.owner",
    ("pipeline/launch", "pipeline/client"): "pipeline.client.nemo_skills.installation",
    ("pipeline/analysis", "pipeline/scoring"): "pipeline.scoring.verdicts",
    ("pipeline/report", "pipeline/scoring"): "pipeline.scoring.verdicts",
    ("pipeline/report", "pipeline/data"): "pipeline.data.prompts",
}
"""(importing room, imported room): the one module of it that may be imported."""
STANDARD_LIBRARY_ONLY = {"core", "scripts"}
ONLY_IN = {
    "ray": ("balancer/actors",),
    "starlette": ("balancer/api", "balancer/server"),
    "uvicorn": ("balancer/api", "balancer/server"),
    "httptools": ("balancer/api",),
    "hydra": ("pipeline/config", "pipeline/__main__"),
    "omegaconf": ("pipeline/config", "pipeline/__main__"),
    "submitit": ("pipeline/launch", "pipeline/slurm"),
    "rich": ("recipes", "pipeline/console", "pipeline/report", "pipeline/compare", "pipeline/job"),
    "jinja2": ("pipeline/report", "recipes", "workers/text"),
    "pooch": ("pipeline/data",),
    "llvmlite": ("kernels/llvm",),
    "triton": ("kernels/cuda", "kernels/resources"),
}
"""Third-party packages that belong to some rooms alone."""
LOGIN_NODE_BANS = {"torch", "ray", "transformers", "peft", "safetensors", "triton", "tokenizers", "llvmlite"}
CATCH_ALLS = {"pipeline/job/run.py", "workers/boundary.py", "balancer/actors/ray_head.py", "balancer/router.py"}
"""Files outside scoring/ that may catch every Exception: the job, one request in engine and router, and where
Ray raises no narrower class."""
BANNED_NAMES = re.compile(r"^(utils|common|helpers|misc)$|_v\d+$")
OURS = {*SOURCES, "conf", "tests", "containers"}


def top(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def permits(allowed: set[str], there: str) -> bool:
    return there in allowed or ("kernels" in allowed and there.split("/")[0] == "kernels")


def test_there_are_sources() -> None:
    assert {top(path) for path in sources()} >= {"core", "pipeline", "balancer", "workers", "kernels", "recipes"}


def test_every_room_is_in_the_table() -> None:
    assert sorted({room_of(path) for path in sources()} - set(MAY_IMPORT)) == [], (
        "a new room needs a line in MAY_IMPORT"
    )
    assert sorted(set(MAY_IMPORT) - {room_of(path) for path in sources()}) == [], "a room that is gone has a line"


def test_rooms_import_what_the_table_allows() -> None:
    wrong = [
        str(statement)
        for here, targets in graph().items()
        for there, statements in targets.items()
        for statement in statements
        if not permits(MAY_IMPORT.get(here, set()), there)
    ]
    assert wrong == []


def test_narrow_imports() -> None:
    wrong = [
        str(statement)
        for (here, there), module in NARROW.items()
        for statement in graph().get(here, {}).get(there, [])
        if statement.module.removeprefix("trimode.") != module
    ]
    assert wrong == []


def test_the_table_has_no_circle_and_no_pair() -> None:
    assert mutual(graph()) == []
    assert floors(graph())


def test_nothing_of_ours_is_imported_bare() -> None:
    bare = [
        str(found)
        for path in sources()
        for found in imports(path)
        if found.module.split(".")[0] in OURS - {"evaluate.py"} | {"evaluate"}
    ]
    assert bare == []


def test_no_relative_imports() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert wrong == []


def test_third_parties_stay_in_their_rooms() -> None:
    wrong = [
        str(found)
        for path in sources()
        for found in imports(path)
        if (rooms := ONLY_IN.get(found.module.split(".")[0])) is not None
        and room_of(path) not in rooms
        and top(path) not in {*rooms, "bench"}
    ]
    assert wrong == []


def test_the_foundation_needs_the_standard_library_only() -> None:
    wrong = [
        str(found)
        for path in sources()
        if room_of(path) in STANDARD_LIBRARY_ONLY
        for found in imports(path)
        if found.module.split(".")[0] not in sys.stdlib_module_names | {"trimode"}
    ]
    assert wrong == []


def test_pipeline_imports_nothing_a_login_node_lacks() -> None:
    wrong = [
        str(found)
        for path in sources()
        for found in imports(path)
        if top(path) == "pipeline" and not found.deferred and found.module.split(".")[0] in LOGIN_NODE_BANS
    ]
    assert wrong == []


def test_no_import_cycle() -> None:
    names = {
        "trimode." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources()
    }
    files = {
        name: {found.module for found in imports(path) if found.module in names and not found.deferred} - {name}
        for name, path in names.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, above: list[str]) -> None:
        state[name] = 1
        for target in files[name]:
            assert state.get(target) != 1, f"import cycle: {' -> '.join([*above, name, target])}"
            if target not in state:
                visit(target, [*above, name])
        state[name] = 2

    for name in files:
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
    """`except Exception` at the job, a request in engine and router, a row in a scorer, and where Ray is no finer."""
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        if top(path) in ("core", "pipeline", "balancer", "workers", "kernels")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    }
    assert {path for path in found if not path.startswith("pipeline/scoring/")} <= CATCH_ALLS


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
    shipped = {"core", "pipeline", "balancer", "workers", "kernels", "conf", "recipes", "chat"}
    expected = {"trimode." + ".".join(p.parts) for p in inits if p.parts and p.parts[0] in shipped} | {"trimode"}
    assert listed == expected


def test_tests_is_no_package() -> None:
    assert [str(p) for p in (ROOT / "tests").glob("**/__init__.py")] == []


@pytest.mark.process
@pytest.mark.parametrize("module", ["eval", "report.__main__", "compare.__main__", "rescore", "launch.dry_run"])
def test_the_login_node_s_modules_load_without_torch_and_ray(module: str) -> None:
    code = f"import sys; import trimode.pipeline.{module}; print(sorted({LOGIN_NODE_BANS!r} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(ROOT / ".types"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.process
def test_workers_and_kernels_load_without_ray_and_hydra() -> None:
    code = "import sys; import trimode.workers.worker; print(sorted({'ray','hydra','omegaconf'} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(ROOT / ".types"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
