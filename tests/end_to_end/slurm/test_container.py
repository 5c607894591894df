"""A job in an image on a real Slurm: it is requeued from outside of the image, by stand-ins for pyxis and Apptainer.

With enroot on PATH and pyxis' plugin on this machine (TRIMODE_TEST_PYXIS names it, or it lies in a folder of Slurm's
plugins) the same job runs in them too. TRIMODE_TEST_IMAGE names an image of containers/rootfs.sh. Without it the image
is an empty one with this machine's /usr and Python mounted, which takes no time to make.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.pipeline.console.progress import read_snapshot
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_output
from trimode.pipeline.slurm.queue import has_ended, job_states

MODEL = PROJECT_DIR / "assets" / "demo_model"
SOURCE = Path(__file__).with_name("stand_in_for_pyxis.c")
INSTALL = "apt-get install -y --no-install-recommends gcc libc6-dev libslurm-dev squashfs-tools"
NEEDED = {"gcc": shutil.which("gcc"), "mksquashfs": shutil.which("mksquashfs")} | {
    "libslurm-dev": Path("/usr/include/slurm/spank.h").exists(),
    "root": os.geteuid() == 0,
    "mount namespaces": not subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode,
    "the demo model": (MODEL / "model.safetensors").exists(),
}
CLUSTERS = {"stand-in for apptainer": "apptainer"}
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        not all(NEEDED.values()),
        reason=f"missing: {', '.join(name for name, found in NEEDED.items() if not found)} ({INSTALL})",
    ),
]


def real_pyxis() -> Path | None:
    """pyxis' plugin, if it and enroot are installed."""
    places = (Path("/usr/local/lib/slurm"), Path("/usr/lib/slurm"), *Path("/usr/lib").glob("*/slurm*"))
    given = os.environ.get("TRIMODE_TEST_PYXIS")
    candidates = [Path(given)] if given else [place / "spank_pyxis.so" for place in places]
    return next((path for path in candidates if path.exists() and shutil.which("enroot")), None)


@pytest.fixture
def plugins(cluster: Path, kind: str) -> Iterator[None]:
    """Slurm takes pyxis' options. The daemons read the list of plugins at each step, so they need no restart."""
    listed = cluster / "etc" / "plugstack.conf"
    if kind == "pyxis itself":
        plugin = real_pyxis()
        if plugin is None:
            pytest.skip("enroot and pyxis are not installed")
        (cluster / "pyxis").mkdir(exist_ok=True)  # slurmd makes it when it starts with the plugin
        mounted = " use_squashfuse=1" if shutil.which("squashfuse") else ""  # else the image is unpacked, which is slow
        listed.write_text(f"required {plugin} runtime_path={cluster / 'pyxis'}{mounted}\n")
    else:
        plugin = cluster / "stand_in_for_pyxis.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", plugin, SOURCE], check=True)
        listed.write_text(f"required {plugin}\n")
    yield
    listed.write_text("")


@pytest.fixture
def image(tmp_path: Path) -> tuple[str, ...]:
    """Settings of an image: its file, its Python, and what has to be mounted beside the job's folders."""
    if given := os.environ.get("TRIMODE_TEST_IMAGE"):
        return (f"cluster.container_image='{given}'",)
    root, packed = tmp_path / "root", tmp_path / "image.sqsh"
    for name in ("usr", "etc", "image"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    python = root / "image" / "python3"  # a job finds this one nowhere but in the image
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    subprocess.run(["mksquashfs", root, packed, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    own = {str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)} | {sys.prefix, "/usr"}
    mounts = ",".join(f"'{folder}:{folder}'" for folder in sorted(own))
    return (
        f"cluster.container_image='{packed}'",
        f"cluster.container_mounts=[{mounts}]",
        "cluster.container_python=/image/python3",
    )


def evaluate(cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """What eval.sh starts, in `cwd`."""
    command = [sys.executable, "-m", "trimode.pipeline.eval", *flags]
    environment = child_environment() | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False)


def wait_until(condition: Callable[[], bool], limit_s: float = 500.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command named apptainer is on PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apptainer").symlink_to(SOURCE.with_name("stand_in_for_apptainer.sh"))
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("plugins", "apptainer")
@pytest.mark.parametrize("kind", ["stand-in for pyxis", "stand-in for apptainer", "pyxis itself"])
def test_a_job_in_an_image_is_requeued_from_outside_and_completes(
    tmp_path: Path, image: tuple[str, ...], kind: str
) -> None:
    submitted = evaluate(
        tmp_path,
        *("--mode", "ar", "--model", str(MODEL), "--benchmarks", "demo-math", "--limit", "200"),
        *("--tokens", "128", "--no-eos-early-stop"),  # so that it takes a while
        *(
            "--cluster",
            CLUSTERS.get(kind, "slurm"),
            "--account",
            "us",
            "--partition",
            "main",
            "--device",
            "cpu",
            "--gpus",
            "1",
        ),
        *("--out-dir", "out", "cluster.mem_gb=null", "cluster.cpus_per_task=null", "cluster.hub_cache=null", *image),
    )
    assert submitted.returncode == 0, submitted.stderr
    [job_id] = [line.split()[1] for line in submitted.stdout.splitlines() if line.startswith("submitted ")]
    [run_dir] = (tmp_path / "out").glob("*/hf_base/eval_*")
    paths = RunPaths(run_dir)

    def said() -> str:
        """What Slurm's own log and the job's log hold."""
        logs = [*(tmp_path / "out" / ".submitit").rglob("*.out"), paths.pipeline_log(0)]
        return "\n".join(log.read_text() for log in logs if log.exists())

    def in_the_middle() -> bool:
        assert not has_ended(job_states([job_id]).get(job_id)), said()
        return sum(task.done for task in read_snapshot(paths.progress(0)).values()) >= 2

    wait_until(in_the_middle)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job_id], check=True)  # as Slurm does near the limit
    wait_until(lambda: job_states([job_id]).get(job_id) == "PENDING")
    assert not paths.failed(0).exists() and not paths.completed(0).exists(), said()
    time.sleep(7)  # until the first run is gone: Slurm 22.05 mixes up two runs that follow at once
    wait_until(lambda: subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"]).returncode == 0)
    wait_until(lambda: has_ended(job_states([job_id]).get(job_id)))
    assert paths.completed(0).exists(), said()
    rows = read_output(paths, "demo-math", 0)
    assert len(rows) == len({row["problem"] for row in rows}) == 200
    runs = json.loads(paths.manifest.read_text())["jobs"]["0"]["runs"]
    assert [(run["status"], run["restart_count"]) for run in runs] == [("interrupted", 0), ("completed", 1)]
