"""Counts the GPUs that this process may use, and the CPU threads that a model should have.

The job and the balancer share the count of GPUs. It reads the operating system's files, so it works without torch. It
does not check that a GPU can compute.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path("/")
"""Where `proc` and `dev` are looked for."""
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = ("", "-1", "NoDevFiles")
"""Entries of CUDA_VISIBLE_DEVICES that name no GPU; Slurm writes the last one for a job without GPUs."""

THREADS_VARIABLE = "OMP_NUM_THREADS"
"""Variable that says how many threads the kernels of a process have; torch and OpenMP read it."""
SMALL_MODEL_BYTES = 16 << 20
"""Size of the weights up to which one thread is the fastest."""


def cpu_threads(model: str, most: int) -> int:
    """Returns the threads that a model on CPUs should have: 1 for a small one, otherwise `most`.

    The kernels of a small model run for microseconds. While another program uses a core, two threads take 1.2 to 2.4
    times as long at every size of a step, because each kernel waits for both. In a server the other programs are its
    own processes. A process that runs alone gives its larger steps more threads while nobody else uses the cores.

    Args:
        model: a folder with safetensors files. Anything else, a name on the hub for one, counts as large.
        most: threads that there are cores for.
    """
    sizes = [path.stat().st_size for path in Path(model).glob("*.safetensors")]
    return 1 if sizes and sum(sizes) <= SMALL_MODEL_BYTES else most


def own_threads(model: str, most: int, environment: Mapping[str, str] | None = None) -> int:
    """Returns the threads of a process that runs a model on its CPUs itself: `most` where OMP_NUM_THREADS names them.

    Elsewhere they are those of `cpu_threads`: for a small model the least that a step has. The environment is this
    process's own when None.
    """
    named = (os.environ if environment is None else environment).get(THREADS_VARIABLE)
    return most if named else cpu_threads(model, most)


def visible_gpus(environment: Mapping[str, str] | None = None, root: Path | None = None) -> int:
    """Returns the number of GPUs this process may use; the environment is this process's own when None.

    Without a GPU on the machine it is 0, whatever CUDA_VISIBLE_DEVICES says. Otherwise it is the number of entries of
    that variable, or all GPUs present where it is not set. Entries may outnumber the GPUs: parts of a GPU (MIG) are
    named one by one.
    """
    present = _present_gpus(root or ROOT)
    chosen = (os.environ if environment is None else environment).get(DEVICES_VARIABLE)
    if present == 0 or chosen is None:
        return present
    return len([entry for entry in chosen.split(",") if entry.strip() not in NO_GPU])


def _present_gpus(root: Path) -> int:
    """Returns the GPUs that the driver lists, or that have a device file; the smaller number where both are there.

    A container may see the driver's whole list and the device files of its own GPUs only. Device files may be missing
    until the first use, and the list where a sandbox hides it. WSL has one file for whatever there is: it counts as 1.
    """
    listed = len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    files = len([path for path in (root / "dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])
    return min(filter(None, (listed, files)), default=int((root / "dev/dxg").exists()))
