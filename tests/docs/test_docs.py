"""The documentation against the repository: packages, links, paths and flags that the pages name must exist."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
MAX_README_LINES = 150
TOP_FOLDERS = (
    "assets", "balancer", "bench", "chat", "conf", "containers", "core", "docs", "kernels", "pipeline", "recipes",
    "scripts", "tests", "workers",
)  # fmt: skip
"""A path is checked when it starts with one of these."""
COMMANDS = (
    ("-m", "trimode.pipeline.eval"),
    ("-m", "trimode.pipeline.report"),
    ("-m", "trimode.pipeline.status"),
    ("-m", "trimode.pipeline.doctor"),
    ("-m", "trimode.pipeline.compare"),
    ("-m", "trimode.pipeline.rescore"),
    ("-m", "trimode.pipeline.data", "prepare"),
    ("-m", "trimode.balancer"),
    ("-m", "trimode.balancer.chat_page"),
    ("-m", "trimode.workers.generate"),
    ("-m", "trimode.workers.quantize"),
    ("-m", "trimode.bench.adaptive"),
    ("-m", "trimode.bench.balancer"),
    ("-m", "trimode.bench.engine"),
    ("-m", "trimode.bench.concurrency"),
    ("-m", "trimode.bench.coverage"),
    ("-m", "trimode.bench.drills"),
    ("-m", "trimode.bench.drills.early"),
    ("-m", "trimode.bench.gpu"),
    ("-m", "trimode.bench.journal"),
    ("-m", "trimode.bench.packed_weights"),
    ("-m", "trimode.bench.products"),
    ("-m", "trimode.kernels.resources"),
    ("-m", "trimode.bench.quantization"),
    ("-m", "trimode.recipes.demo.train"),
    ("-m", "trimode.recipes.demo.figures"),
    ("-m", "trimode.workers.fetch"),
    ("evaluate.py",),
    ("chat/chat.py",),
)
SCRIPTS = ("containers/build.sh", "containers/rootfs.sh", "containers/spark/serve.sh")
HELP_TIMEOUT_S = 300.0
"""Generous: a help text that imports torch takes long on a machine under load."""

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
ENGINE_COMMAND = re.compile(
    r"^(\w+=\S+ )*(docker|srun|python -m llama_cpp\.server|lm_eval|inspect|schemathesis) (.*\\\n)*.*$", re.MULTILINE
)
"""A command of docker, srun or another engine, over all its lines: its flags are not ours."""
OUTPUT = re.compile(r"(?:--out|--out-dir|--output|--html|--data-dir|-m venv) ([a-z][\w.-]*)(?= |`|$)", re.MULTILINE)
"""A file or folder that a command writes, relative to the checkout."""
PLAIN_PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(data|etc|home|mnt|opt|root|srv|tmp|usr|var|work|Users)\b")


def pages() -> list[Path]:
    """The README, every page of docs/, and the READMEs of single folders."""
    return [
        README,
        *sorted((ROOT / "docs").rglob("*.md")),
        *(ROOT / f"{name}/README.md" for name in ("bench", "containers", "containers/spark", "recipes/demo")),
    ]


@functools.cache
def tracked() -> tuple[str, ...]:
    """Names of all tracked or new files, except ignored ones, such as those that documented commands leave."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(name for name in names if (ROOT / name).exists())


def packages() -> list[str]:
    """Every top-level folder, and every folder below one that is a package."""
    folders = {name.split("/")[0] for name in tracked() if "/" in name}
    folders |= {str(Path(name).parent) for name in tracked() if name.endswith("/__init__.py")}
    return sorted(folder for folder in folders if not folder.startswith("."))


def unnamed(names: list[str], text: str) -> list[str]:
    """The names that stand in `text` neither as `name` nor as `name/`."""
    return [name for name in names if f"`{name}`" not in text and f"`{name}/`" not in text]


def links(text: str) -> list[str]:
    """Targets of the links to files, without their anchors."""
    targets = [target.partition("#")[0] for target in LINK.findall(FENCE.sub("", text))]
    return [target for target in targets if target and "://" not in target]


def named_paths(text: str) -> list[str]:
    """Paths from the repository root in backticks or in a fenced block, alone or as a word of a command."""
    fenced = FENCE.findall(text)
    words = [word for code in [*fenced, *CODE.findall(FENCE.sub("", text))] for word in code.split()]
    return [word for word in words if PLAIN_PATH.fullmatch(word) and "/" in word and word.split("/")[0] in TOP_FOLDERS]


@functools.cache
def known_flags() -> frozenset[str]:
    """Every flag that a command's help names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".types"), "PYTHONSAFEPATH": "1"}
    commands = [*([sys.executable, *command] for command in COMMANDS), *(["bash", script] for script in SCRIPTS)]
    running = [
        subprocess.Popen([*command, "--help"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    texts = [process.communicate(timeout=HELP_TIMEOUT_S)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return frozenset(flag for text in texts for flag in FLAG.findall(text))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.process
def test_architecture_names_every_package() -> None:
    assert unnamed(packages(), ARCHITECTURE.read_text(encoding="utf-8")) == []


@pytest.mark.process
def test_what_documented_commands_leave_in_the_checkout_is_ignored() -> None:
    """Otherwise the linters and these tests would take it for a part of the project."""
    guides = [page for page in pages() if page.parent.name != "results"]  # results are records of what once was run
    fences = [fence for page in guides for fence in FENCE.findall(page.read_text(encoding="utf-8"))]
    written = sorted({name for fence in fences for name in OUTPUT.findall(fence)})
    assert {"trial", "clients", "results.json"} <= set(written)
    paths = [f"{name}/file" if "." not in name else name for name in written]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True).stdout
    assert [path for path in paths if path not in ignored.splitlines()] == []


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_linked_files_exist_in_the_repository(page: Path) -> None:
    targets = [(page.parent / target).resolve() for target in links(page.read_text(encoding="utf-8"))]
    assert [str(target) for target in targets if not target.exists() or not target.is_relative_to(ROOT)] == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_named_paths_exist(page: Path) -> None:
    assert [path for path in named_paths(page.read_text(encoding="utf-8")) if not (ROOT / path).exists()] == []


@pytest.mark.process
@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_flags_are_those_of_a_command(page: Path) -> None:
    text = ENGINE_COMMAND.sub("", page.read_text(encoding="utf-8"))
    assert sorted(set(FLAG.findall(text)) - known_flags()) == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_no_page_names_a_path_of_some_machine(page: Path) -> None:
    assert [match[0] for match in MACHINE_PATH.finditer(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name_of)
def test_every_page_is_linked_from_another_one(page: Path) -> None:
    others = [other for other in pages() if other != page]
    linked = {(other.parent / target).resolve() for other in others for target in links(other.read_text("utf-8"))}
    assert page in linked
