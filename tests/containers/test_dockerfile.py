"""The Dockerfile against the rules of containers/: pinned, no secrets, no root, nothing left in the layers."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from trimode.balancer.settings import build_parser

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS = ROOT / "containers"
DOCKERFILE = CONTAINERS / "Dockerfile"
SERVE = CONTAINERS / "serve" / "Dockerfile"
SECRET = re.compile(r"token|secret|passw|credential|api_?key", re.IGNORECASE)
LISTED = re.compile(r"-r |--no-build-isolation /mnt/code")
"""pip gets a list with versions, or the mounted checkout."""
PINNED = re.compile(r"[\w./-]+(:[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})")
COMMIT_ARCHIVE = re.compile(r"https://github\.com/[\w-]+/[\w-]+/archive/[0-9a-f]{40}\.tar\.gz")


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile, one thing each."""
    found = instructions(text)
    arguments = dict(rest.split("=", 1) for name, rest in found if name == "ARG" and "=" in rest)
    stages = {rest.split(" AS ")[1] for name, rest in found if name == "FROM" and " AS " in rest}
    wrong = []
    for name, rest in found:
        if name == "FROM":
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], ""), rest.split(" AS ")[0])
            if base not in stages and not (PINNED.fullmatch(base) and not base.endswith(":latest")):
                wrong.append(f"FROM is not pinned: {base}")
        if name in ("ADD", "COPY"):
            wrong.append(f"{name} copies into a layer what a mount could give: {rest}")
        if name in ("ARG", "ENV") and SECRET.search(rest):
            wrong.append(f"{name} looks like a secret: {rest}")
        if name == "RUN" and "apt-get install" in rest:
            if "--no-install-recommends" not in rest:
                wrong.append("apt-get without --no-install-recommends")
            if "rm -rf /var/lib/apt/lists/*" not in rest or "apt-get update" not in rest:
                wrong.append("apt-get leaves or takes its lists from another layer")
        commands = re.findall(r"pip install [^;&]*", rest) if name == "RUN" else []
        unlisted = [line.strip() for line in commands if not LISTED.search(line) or "--no-deps" not in line]
        wrong += [f"pip installs what no list names: {line}" for line in unlisted]
    users = [rest for name, rest in found if name == "USER"]
    if not users or users[-1] in ("root", "0"):
        wrong.append("the image runs as root")
    return wrong


@pytest.mark.parametrize("path", [DOCKERFILE, SERVE], ids=["image", "serve"])
def test_the_dockerfiles_keep_the_rules(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_the_image_is_labelled() -> None:
    [label] = [rest for name, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")) if name == "LABEL"]
    named = re.findall(r"org\.opencontainers\.image\.([\w.]+)=", label)
    assert named == ["title", "description", "licenses", "version", "revision", "base.name"]


def test_the_server_needs_a_key_and_stands_on_the_image_of_this_version() -> None:
    found = dict(instructions(SERVE.read_text(encoding="utf-8")))
    version = re.search(r'^version = "(.*)"', (CONTAINERS.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and found["ARG"] == f"BASE=trimode-cuda:{version[1]}"
    entry = json.loads(found["ENTRYPOINT"])
    assert entry[:3] == ["python3", "-m", "trimode.balancer"]
    assert {"--host", "--port", "--api-key-file"} < set(entry)
    build_parser().parse_args([*entry[3:], *json.loads(found["CMD"])])  # flags that the server has


def test_the_server_s_build_sees_every_package_and_nothing_else() -> None:
    lines = SERVE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    seen = {line[1:] for line in lines if line.startswith("!")}
    setup = tomllib.loads((CONTAINERS.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {name.split(".")[1] for name in setup["packages"] if "." in name}
    assert lines[1] == "*" and seen == folders | {"LICENSE", "README.md", "pyproject.toml", "__init__.py"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("FROM ubuntu", "FROM is not pinned: ubuntu"),
        ("FROM ubuntu:latest", "FROM is not pinned"),
        ("ADD https://example.org/x /x", "ADD copies"),
        ("ENV HF_TOKEN=x", "ENV looks like a secret"),
        ("RUN apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*", "--no-install-recommends"),
        ("RUN apt-get update && apt-get install -y --no-install-recommends git", "lists"),
        ("RUN pip install torch", "no list names: pip install torch"),
        ("USER root", "runs as root"),
    ],
)
def test_each_rule_sees_its_fault(line: str, words: str) -> None:
    assert words in "\n".join(faults(f"{DOCKERFILE.read_text(encoding='utf-8')}\n{line}\n"))


def test_hashes_are_asked_for_wherever_a_lock_is_installed() -> None:
    runs = "\n".join(rest for name, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")) if name == "RUN")
    installed = re.findall(r"pip install ([^;&]*)-r \"?/mnt/locks/([\w$]+)\.txt", runs)
    assert [name for _, name in installed] == ["build", "torch", "$LAYER"]
    assert all("--require-hashes" in options for options, _ in installed)


def test_nemo_skills_and_evalplus_are_pinned_by_commit() -> None:
    lines = (CONTAINERS / "nemo_skills_commits.txt").read_text(encoding="utf-8").splitlines()
    urls = [line for line in lines if not line.startswith("#")]
    assert [url.split("/")[4].lower() for url in urls] == ["skills", "evalplus"]
    assert [url for url in urls if not COMMIT_ARCHIVE.fullmatch(url)] == []
    pins = (CONTAINERS / "nemo_skills.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_both_variants_list_their_packages_in_order() -> None:
    cpu, cuda = ((CONTAINERS / f"apt-{name}.txt").read_text(encoding="utf-8").split() for name in ("cpu", "cuda"))
    assert cpu == sorted(cpu) and cuda == sorted(cuda) and set(cpu) < set(cuda)
