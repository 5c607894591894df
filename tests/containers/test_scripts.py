"""What build.sh and rootfs.sh would run, and what they say when something is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CONTAINERS = Path(__file__).resolve().parents[2] / "containers"
ROOT = CONTAINERS.parent
pytestmark = pytest.mark.process


def run(cwd: Path, script: str, *flags: str, tools: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a script of containers/ with `tools` first on PATH."""
    path = os.pathsep.join([*([str(tools)] if tools else []), "/usr/bin", "/bin"])
    command = ["bash", str(CONTAINERS / script), *flags]
    return subprocess.run(command, cwd=cwd, env={"PATH": path}, capture_output=True, text=True, check=False)


def fake(folder: Path, *names: str, line: str = 'echo "$(basename "$0") $*" >>"$CALLS"') -> Path:
    """A folder of programs that note their arguments."""
    folder.mkdir(exist_ok=True)
    for name in names:
        program = folder / name
        program.write_text(f"#!/bin/sh\nCALLS={folder}/calls\n{line}\n")
        program.chmod(0o755)
    return folder


def test_docker_builds_and_both_formats_are_made_of_the_image(tmp_path: Path) -> None:
    tools = fake(tmp_path / "tools", "docker", "enroot", "apptainer")
    done = run(tmp_path, "build.sh", "--dry-run", "--to", "sqsh,sif", "--out", "/images", tools=tools)
    base = "nvidia/cuda:13.0.1-base-ubuntu24.04"
    assert done.stdout.splitlines() == [
        f"docker pull {base}",
        f"base=$(docker image inspect --format '{{{{index .RepoDigests 0}}}}' {base})",
        f"DOCKER_BUILDKIT=1 docker build --file {CONTAINERS}/Dockerfile --tag trimode-cuda:0.1.0 "
        "--build-arg VARIANT=cuda --build-arg LAYER=worker --build-arg VERSION=0.1.0 --build-arg NEMO_SKILLS= "
        '--build-arg CUDA_BASE="$base" --build-arg BASE_NAME="$base" '
        f'--build-arg REVISION="$(git -C {ROOT} rev-parse HEAD)" {ROOT}',
        "rm -f /images/trimode-cuda.sqsh",
        "enroot import --output /images/trimode-cuda.sqsh dockerd://trimode-cuda:0.1.0",
        "docker save --output /images/trimode-cuda.tar trimode-cuda:0.1.0",
        "apptainer build --force /images/trimode-cuda.sif docker-archive:/images/trimode-cuda.tar",
        "rm /images/trimode-cuda.tar",
    ]


def test_podman_builds_the_cpu_variant_with_its_own_options(tmp_path: Path) -> None:
    tools = fake(tmp_path / "tools", "podman", "enroot")
    (tmp_path / "pip.conf").touch()
    flags = ("--variant", "cpu", "--layer", "test", "--nemo-skills", "--pip-conf", "pip.conf", "--engine", "podman")
    lines = run(tmp_path, "build.sh", "--dry-run", *flags, tools=tools).stdout.splitlines()
    [build] = [line for line in lines if line.startswith("podman build ")]
    assert "--tag trimode-cpu-nemo-skills-test:0.1.0" in build
    assert "--build-arg LAYER=test" in build and "--build-arg NEMO_SKILLS=yes" in build
    assert f"--ignorefile {CONTAINERS}/Dockerfile.dockerignore --secret id=pip,src={tmp_path}/pip.conf" in build
    assert '--build-arg CPU_BASE="$base"' in build
    assert lines[-1].endswith("podman://trimode-cpu-nemo-skills-test:0.1.0")


def test_the_commands_of_the_dry_run_are_what_runs(tmp_path: Path) -> None:
    line = 'cat >/dev/null; echo "$(basename "$0") $*" >>"$CALLS"; [ "$2" != inspect ] || echo nvidia/cuda@sha256:0'
    tools = fake(tmp_path / "tools", "docker", "enroot", line=line)
    done = run(tmp_path, "build.sh", "--engine", "docker", tools=tools)
    assert done.returncode == 0, done.stderr
    calls = (tools / "calls").read_text().splitlines()
    assert [" ".join(call.split()[:2]) for call in calls] == [
        *("docker info", "docker pull", "docker image", "docker build", "enroot import"),
    ]
    assert "--build-arg CUDA_BASE=nvidia/cuda@sha256:0 --build-arg BASE_NAME=nvidia/cuda@sha256:0" in calls[3]


def test_a_failed_build_converts_nothing(tmp_path: Path) -> None:
    line = 'echo "$(basename "$0") $*" >>"$CALLS"; [ "$1" != build ]'
    tools = fake(tmp_path / "tools", "docker", "enroot", line=line)
    assert run(tmp_path, "build.sh", "--engine", "docker", tools=tools).returncode == 1
    assert "enroot" not in (tools / "calls").read_text()


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    tools = fake(tmp_path / "tools", "podman", line="exit 1")
    done = run(tmp_path, "build.sh", "--engine", "podman", "--to", "sqsh,sif", tools=tools)
    assert done.returncode == 2 and done.stdout == ""
    assert "podman is there but does not answer: start its service" in done.stderr
    assert "enroot (for .sqsh): github.com/NVIDIA/enroot" in done.stderr
    assert "apptainer (for .sif): a module or package of the cluster" in done.stderr


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("build.sh", ("--variant", "rocm"), "variants are cuda and cpu: got 'rocm'"),
        ("build.sh", ("--layer", "base"), "layers are worker and test: got 'base'"),
        ("build.sh", ("--to", "sqsh,vmdk"), "--to takes image, sqsh and sif: got 'vmdk'"),
        ("build.sh", ("--engine", "lxc"), "engines are docker and podman: got 'lxc'"),
        ("build.sh", ("--pip-conf", "nothing"), "no file nothing"),
        ("build.sh", ("--variant",), "the last flag needs a value"),
        ("build.sh", ("--fast",), "no flag --fast"),
        ("rootfs.sh", (), "the image's name is missing"),
        ("rootfs.sh", ("--layer", "most", "x.sqsh"), "layers are base, worker and test: got 'most'"),
        ("rootfs.sh", ("a.sqsh", "b.sqsh"), "one image is made: got a.sqsh and b.sqsh"),
        ("rootfs.sh", ("--suite",), "the last flag needs a value"),
    ],
)
def test_a_wrong_flag_says_what_is_valid(tmp_path: Path, script: str, flags: tuple[str, ...], words: str) -> None:
    done = run(tmp_path, script, *flags)
    assert done.returncode == 2
    assert words in done.stderr


def test_the_root_file_system_holds_the_locks_of_its_layer(tmp_path: Path) -> None:
    lines = run(tmp_path, "rootfs.sh", "--dry-run", "--suite", "trixie", "x.sqsh").stdout.splitlines()
    packages = ",".join((CONTAINERS / "apt-cpu.txt").read_text().split())
    assert lines[0].endswith(f'debootstrap --variant=minbase --include={packages} trixie "$WORK/root"')
    locks = [line.split("/locks/")[1].split(".")[0] for line in lines if "/locks/" in line]
    assert locks == ["build", "build", "worker"]
    assert all("--require-hashes" in line for line in lines if "/locks/" in line)
    assert any("torch==" in line and line.count("+cpu") == 1 for line in lines)
    assert lines[-1] == 'mv "$IMAGE.new" "$IMAGE"'


@pytest.mark.parametrize(("layer", "torch", "triton"), [("base", False, False), ("test", True, True)])
def test_the_other_layers(tmp_path: Path, layer: str, torch: bool, triton: bool) -> None:
    planned = run(tmp_path, "rootfs.sh", "--dry-run", "--layer", layer, "x.sqsh").stdout
    assert ("torch==" in planned, "triton==" in planned) == (torch, triton)
    assert f"/locks/{layer}.txt" in planned


def test_a_server_stands_on_the_image_and_is_what_is_converted(tmp_path: Path) -> None:
    tools = fake(tmp_path / "tools", "podman", "enroot", "apptainer")
    flags = ("--dry-run", "--serve", "--engine", "podman", "--to", "sqsh,sif", "--out", "/images")
    lines = run(tmp_path, "build.sh", *flags, tools=tools).stdout.splitlines()
    assert "--tag trimode-cuda:0.1.0" in lines[2]
    assert lines[3] == (
        f"podman build --file {CONTAINERS}/serve/Dockerfile --tag trimode-cuda-serve:0.1.0 "
        f"--build-arg BASE=trimode-cuda:0.1.0 --format docker --ignorefile {CONTAINERS}/serve/Dockerfile.dockerignore "
        f"{ROOT}"
    )
    assert lines[5] == "enroot import --output /images/trimode-cuda-serve.sqsh podman://trimode-cuda-serve:0.1.0"
    assert lines[7].endswith("/images/trimode-cuda-serve.sif docker-archive:/images/trimode-cuda-serve.tar")
