"""eval.sh and the environment it makes, with a stand-in for Python's venv and pip; nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

PROJECT = Path(__file__).resolve().parents[2]
SEEN_BY_EVAL = "-m trimode.pipeline.eval"
LOCKED = "install -q --no-deps --no-build-isolation --require-hashes -r ROOT/scripts/locks/"
OURS = "install -q --no-deps --no-build-isolation -e ROOT"
BASE = [f"{LOCKED}build.txt", f"{LOCKED}base.txt", OURS]
TORCH = re.search("^torch==([^ ]+)", (PROJECT / "scripts/locks/torch.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]
NO_DRIVER = pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout that holds only what the set-up reads."""
    folder = tmp_path / "check out"
    (folder / "scripts").mkdir(parents=True)
    for name in ("eval.sh", "scripts/setup_env.sh", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder / name)
    shutil.copytree(PROJECT / "scripts/locks", folder / "scripts/locks")
    fake_python(tmp_path)
    return folder


def fake_python(tmp_path: Path, supported: bool = True, has_venv: bool = True) -> None:
    """A python3 that is this one but makes environments out of scripts; pip writes its arguments into tmp_path/pip."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    inner = f"""#!/bin/bash
case "$*" in
  *'name="torch"'*) cat "{tmp_path}/has_torch" 2>/dev/null || true ;;
  "-m trimode.balancer"*) printf '%s\\n' "$PYTHONSAFEPATH" "${{@:3}}" ;;
  "{SEEN_BY_EVAL}"*) printf '%s\\n' "$PYTHONSAFEPATH" "${{@:3}}" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""
    pip = f"""#!/bin/bash
case "$1" in
  config) cat "{tmp_path}/pip_config" 2>/dev/null || true ;;
  *) sleep 0.3; echo "$*" >> "{tmp_path}/pip"; ! grep -qsF -- "${{@: -1}}" "{tmp_path}/pip_lacks" ;;
esac
"""
    (tmp_path / "inner_python").write_text(inner)
    (tmp_path / "inner_pip").write_text(pip)
    outer = f"""#!/bin/bash
case "$*" in
  *version_info*"< (3, 14)"*) {"true" if supported else "false"} ;;
  *platform.python_version*) echo 3.9.2 ;;
  *ensurepip*) {"true" if has_venv else "false"} ;;
  *"-m venv --clear"*) rm -rf "${{@: -1}}"; mkdir -p "${{@: -1}}/bin"
    ln -s "{tmp_path}/inner_python" "${{@: -1}}/bin/python"; ln -s "{tmp_path}/inner_pip" "${{@: -1}}/bin/pip"
    echo venv >> "{tmp_path}/pip" ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""
    (folder / "python3").write_text(outer)
    for path in (folder / "python3", tmp_path / "inner_python", tmp_path / "inner_pip"):
        path.chmod(stat.S_IRWXU)


def call(
    project: Path, *words: str, script: str = "eval.sh", python: str = "python3"
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{project.parent / 'bin'}:{os.environ['PATH']}", "PYTHON": python}
    command = ["bash", str(project / script), *words]
    return subprocess.run(command, env=environment, cwd=project.parent, capture_output=True, text=True, timeout=300)


def installed(project: Path) -> list[str]:
    """What was made and what pip was asked for, in order."""
    log = project.parent / "pip"
    return log.read_text().replace(str(project), "ROOT").splitlines() if log.exists() else []


def test_a_fresh_machine_gets_the_base_environment_once(project: Path) -> None:
    first = call(project, "--mode", "ar", "a b", "--dry-run")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == ["1", "--mode", "ar", "a b", "--dry-run"], "arguments and safe path go through"
    assert installed(project) == ["venv", *BASE]
    assert call(project, "--mode", "ar", "--dry-run").stderr == ""
    assert len(installed(project)) == 4


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--help",), "--num-chunks"),
        (("--mode", "ar", "-h"), "--num-chunks"),
        (("--serve", "--help"), "--kv-cache-gb"),
        (("--serve", "--port", "1", "-h"), "--kv-cache-gb"),
    ],
)
def test_help_makes_no_environment(project: Path, words: tuple[str, ...], flag: str) -> None:
    (project / ".types").mkdir()
    (project / ".types/trimode").symlink_to(PROJECT)
    done = call(project, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  {flag}" in done.stdout
    assert installed(project) == []
    assert not (project / ".venv").exists()


def test_help_without_a_suitable_python_names_what_is_needed(project: Path) -> None:
    done = call(project, "--help", python="no-such-python")
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_local_runs_get_the_worker_layer(project: Path) -> None:
    assert call(project, "--demo").returncode == 0
    assert installed(project)[-2:] == [f"{LOCKED}worker.txt", OURS]
    assert call(project, "--mode", "ar", "--dry-run").stderr == "", "worker holds base"


def test_the_doctor_needs_the_base_layer_only(project: Path) -> None:
    done = call(project, "--doctor", "--help")
    assert done.returncode == 0, done.stderr
    assert "Checks a sweep before its first run" in done.stdout
    assert installed(project)[1:] == BASE


def test_a_running_server_needs_the_base_layer_only(project: Path) -> None:
    assert call(project, "--demo", "--server", "http://x").returncode == 0
    assert installed(project)[1:] == BASE


def test_serve_sets_up_and_serves_the_demo_model(project: Path) -> None:
    adapter = project / "assets/demo_model/linear_spec_lora"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    done = call(project, "--serve")
    assert done.returncode == 0, done.stderr
    model = str(project / "assets/demo_model")
    assert done.stdout.splitlines() == ["1", "--model", model, "--lora", str(adapter), "--port", "8000"]
    assert "Ctrl-C ends it" in done.stderr
    assert installed(project)[-2:] == [f"{LOCKED}worker.txt", OURS]


def test_serve_hands_every_flag_on(project: Path) -> None:
    given = ["--model", "my model", "--port=7", "--lora", "a", "--host", "127.0.0.1"]
    assert call(project, "--serve", *given).stdout.splitlines() == ["1", *given]
    assert call(project, "--serve", "--model=org/m").stdout.splitlines() == ["1", "--port", "8000", "--model=org/m"]


def test_a_dry_run_of_the_demo_needs_no_worker_layer(project: Path) -> None:
    assert call(project, "--demo", "--dry-run").returncode == 0
    assert installed(project)[1:] == BASE


@NO_DRIVER
def test_torch_comes_as_a_cpu_build_without_a_driver(project: Path) -> None:
    call(project, "--setup", "worker")
    source = "--index-url https://download.pytorch.org/whl/cpu"
    assert installed(project)[2] == f"install -q --no-deps {source} torch=={TORCH}+cpu"
    assert f"{LOCKED}torch.txt" not in installed(project)


@NO_DRIVER
def test_torch_comes_from_pips_own_sources_when_it_has_some(project: Path) -> None:
    (project.parent / "pip_config").write_text("global.find-links='/wheels'\n")
    call(project, "--setup", "worker")
    assert installed(project)[2] == f"install -q --no-deps torch=={TORCH}+cpu"


@NO_DRIVER
def test_the_locked_cuda_build_comes_where_there_is_no_cpu_build(project: Path) -> None:
    (project.parent / "pip_lacks").write_text(f"torch=={TORCH}+cpu\n")
    assert call(project, "--setup", "worker").returncode == 0
    assert installed(project)[3] == f"{LOCKED}torch.txt"


def test_a_driver_brings_the_locked_cuda_build(project: Path) -> None:
    driver = project.parent / "bin" / "nvidia-smi"
    driver.write_text("#!/bin/bash\n")
    driver.chmod(stat.S_IRWXU)
    call(project, "--setup", "worker")
    assert installed(project)[1:] == [f"{LOCKED}build.txt", f"{LOCKED}torch.txt", f"{LOCKED}worker.txt", OURS]


@pytest.mark.parametrize(("build", "kept"), [(f"{TORCH}+cu999", True), ("1.0.0+cpu", False)])
def test_any_build_of_the_locked_torch_is_kept(project: Path, build: str, kept: bool) -> None:
    (project.parent / "has_torch").write_text(build)
    call(project, "--setup", "worker")
    assert (installed(project)[1:] == [f"{LOCKED}build.txt", f"{LOCKED}worker.txt", OURS]) is kept


def test_a_failed_installation_is_named_and_tried_again(project: Path) -> None:
    (project.parent / "pip_lacks").write_text(f"{project}/scripts/locks/base.txt\n")
    for _ in range(2):
        done = call(project, "--setup", "base")
        assert done.returncode == 2
        assert "pip could not install the base packages" in done.stderr
    assert OURS not in installed(project)


def test_set_up_exits_and_prints_to_stderr(project: Path) -> None:
    done = call(project, "--setup=base")
    assert (done.returncode, done.stdout) == (0, "")
    assert "environment ready" in done.stderr


@pytest.mark.parametrize(
    "words", [("--setup",), ("--setup", "test"), ("--setup", "base", "--mode", "ar"), ("--setup=x",)]
)
def test_a_wrong_set_up_is_refused(project: Path, words: tuple[str, ...]) -> None:
    done = call(project, *words)
    assert done.returncode == 2
    assert "--setup stands alone and takes base or worker" in done.stderr
    assert installed(project) == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "scripts/locks/base.txt", "scripts/locks/torch.txt"])
def test_changed_dependencies_are_installed_for_every_layer_there_is(project: Path, changed: str) -> None:
    call(project, "--setup", "worker")
    with (project / changed).open("a") as file:
        file.write("\n# changed\n")
    (project.parent / "has_torch").write_text(TORCH)
    call(project, "--mode", "ar", "--dry-run")
    assert installed(project)[-3:] == [f"{LOCKED}build.txt", f"{LOCKED}worker.txt", OURS]
    assert installed(project).count("venv") == 1
    assert call(project, "--mode", "ar", "--dry-run").stderr == ""


def test_the_newest_packages_get_an_environment_of_their_own(project: Path) -> None:
    (project.parent / "pip_config").write_text("global.find-links='/wheels'\n")
    assert call(project, "newest", script="scripts/setup_env.sh").returncode == 0
    assert installed(project) == ["venv", "install -q --upgrade --upgrade-strategy eager -e ROOT[worker,test]"]
    assert (project / ".venv-newest").is_dir()
    assert not (project / ".venv").exists()


def test_a_copied_environment_is_remade(project: Path) -> None:
    call(project, "--setup", "base")
    copy = project.with_name("copy")
    shutil.copytree(project, copy, symlinks=True)
    call(copy, "--setup", "base")
    assert installed(project).count("venv") == 2


def test_an_environment_whose_python_is_gone_is_remade(project: Path) -> None:
    call(project, "--setup", "base")
    (project / ".venv" / "bin" / "python").unlink()
    call(project, "--setup", "base")
    assert installed(project).count("venv") == 2


def test_two_at_once_install_once(project: Path) -> None:
    environment = os.environ | {"PATH": f"{project.parent / 'bin'}:{os.environ['PATH']}", "PYTHON": "python3"}
    command = ["bash", str(project / "eval.sh"), "--setup", "base"]
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert installed(project) == ["venv", *BASE]


def test_a_wrong_python_is_named(project: Path) -> None:
    fake_python(project.parent, supported=False)
    done = call(project, "--mode", "ar")
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed: python3 is 3.9.2" in done.stderr


def test_a_missing_venv_package_is_named(project: Path) -> None:
    fake_python(project.parent, has_venv=False)
    done = call(project, "--mode", "ar")
    assert done.returncode == 2
    assert "has no venv module" in done.stderr and "apt install python3." in done.stderr
