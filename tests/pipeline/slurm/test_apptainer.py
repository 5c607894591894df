"""Apptainer's command line, word by word, and images of the wrong kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.slurm.apptainer import apptainer_arguments, wrong_image
from trimode.pipeline.slurm.arrays import submission_dir
from trimode.pipeline.slurm.script import container_arguments, python_command, sbatch_text
from trimode.pipeline.spec import Container, ResourceSpec
from trimode.tests.fakes.sweeps import jobs_of

TYPES = PROJECT_DIR / ".types"
MOUNTS = ("/out:/out", "/weights:/weights:ro")


def resources(cwd: Path, *overrides: str) -> ResourceSpec:
    return jobs_of(cwd, "mode=ar", "out_dir=out", *overrides)[0].resources


def test_apptainer_is_a_command_before_python(tmp_path: Path) -> None:
    apptainer = resources(tmp_path, "cluster=apptainer", "cluster.container_image='/my images/i.sif'")
    assert container_arguments(apptainer, MOUNTS) == []
    assert apptainer_arguments(apptainer, MOUNTS) == [
        *("apptainer", "exec", "--no-mount=home,cwd", "--writable-tmpfs", "--nv"),
        f"--pwd={PROJECT_DIR}",
        "--bind=/out:/out,/weights:/weights:ro",
        "/my images/i.sif",
    ]
    assert python_command(apptainer, MOUNTS) == (
        f"apptainer exec --no-mount=home,cwd --writable-tmpfs --nv --pwd={PROJECT_DIR} "
        "--bind=/out:/out,/weights:/weights:ro '/my images/i.sif' "
        f"env PYTHONSAFEPATH=1 PYTHONPATH={TYPES} python3"
    )


def test_a_job_on_the_cpu_brings_no_driver_in(tmp_path: Path) -> None:
    on_cpu = resources(tmp_path, "cluster=apptainer", "balancer.device=cpu")
    assert "--nv" not in apptainer_arguments(on_cpu, MOUNTS)


def test_a_dry_run_without_an_image_shows_its_place(tmp_path: Path) -> None:
    assert (
        apptainer_arguments(resources(tmp_path, "cluster=apptainer", "cluster.container_image=null"), ())[-1] == "IMAGE"
    )


def test_the_batch_script_of_apptainer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    jobs = jobs_of(
        tmp_path,
        *("mode=ar", "cluster=apptainer", "cluster.container_image=i.sif", "cluster.hub_cache=/hub"),
        *("model.path=./model", "cluster.container_mounts=['/scratch:/scratch']", "out_dir=out"),
    )
    folder = submission_dir(jobs)
    script = sbatch_text(jobs)
    folders = (PROJECT_DIR, tmp_path / "out", tmp_path / "model", "/hub", "/scratch")
    binds = ",".join(f"{folder}:{folder}" for folder in folders)
    assert script.splitlines()[-1] == (
        f"srun --unbuffered --output {folder}/%j_%t_log.out "
        f"apptainer exec --no-mount=home,cwd --writable-tmpfs --nv --pwd={PROJECT_DIR} --bind={binds} "
        f"{tmp_path}/i.sif env PYTHONSAFEPATH=1 PYTHONPATH={TYPES} python3 -u -m trimode.pipeline.launch.task {folder}"
    )
    assert "export HF_HOME=/hub" in script.splitlines()
    assert "--container" not in script


@pytest.mark.parametrize(
    ("container", "image", "words"),
    [
        (Container.pyxis, "/i.sqsh", None),
        (Container.pyxis, "docker://registry/i:1", None),
        (Container.pyxis, "registry.org#i:1", None),
        (Container.pyxis, "/i.sif", "cluster.container=apptainer"),
        (Container.apptainer, "/i.sif", None),
        (Container.apptainer, "/i.sqsh", None),
        (Container.apptainer, "docker://registry/i:1", None),
        (Container.apptainer, "registry.org#i:1", "a .sif or .sqsh file"),
        (Container.apptainer, "dockerd://i:1", "a .sif or .sqsh file"),
    ],
)
def test_an_image_of_another_kind_of_container(container: Container, image: str, words: str | None) -> None:
    valid = wrong_image(container, image)
    assert valid is None if words is None else words in str(valid)
