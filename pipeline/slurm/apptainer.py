"""The command line of Apptainer, a program that srun starts, and which images pyxis and Apptainer can read."""

from __future__ import annotations

from collections.abc import Sequence

from trimode.core.project import PROJECT_DIR
from trimode.pipeline.spec import Container, Device, ResourceSpec

SCHEMES = ("docker://", "oras://", "library://", "shub://", "https://", "http://")
"""Registries that `apptainer exec` reads from. Each node then makes a file of its own from what it loads."""
SIF = ".sif"


def apptainer_arguments(resources: ResourceSpec, mounts: Sequence[str]) -> list[str]:
    """Returns the command that runs another one in an image with Apptainer, as pyxis would run it.

    The home and current folders of the host stay out, and what a program writes beside the mounts is dropped.
    Apptainer passes the environment on, and with it the job's variables. The driver's libraries are brought in
    unless the job runs on the CPU.
    """
    return [
        "apptainer",
        "exec",
        "--no-mount=home,cwd",
        "--writable-tmpfs",
        *([] if resources.device is Device.cpu else ["--nv"]),  # without a GPU it only warns
        f"--pwd={PROJECT_DIR}",
        *([f"--bind={','.join(mounts)}"] if mounts else []),
        resources.container_image or "IMAGE",
    ]


def wrong_image(container: Container, image: str) -> str | None:
    """Returns what is valid instead, if a container of this kind cannot be made of `image`; else None.

    `image` is an absolute path or a registry's URL. The file itself is not looked at.
    """
    if container is Container.pyxis and image.endswith(SIF):
        return "a .sqsh file or a registry's URL for pyxis; .sif files need cluster.container=apptainer"
    readable = image.startswith(SCHEMES) or (image.startswith("/") and "#" not in image)
    if container is Container.apptainer and not readable:
        return f"a .sif or .sqsh file, or a URL with {', '.join(SCHEMES)} for Apptainer"
    return None
