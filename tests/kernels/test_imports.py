"""Kernels and workers import on a machine that has torch and little else."""

from __future__ import annotations

import subprocess
import sys

import pytest
from trimode.core.project import PROJECT_DIR

MISSING = ("triton", "ray", "hydra", "omegaconf", "llvmlite", "submitit")
CODE = f"""
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import trimode.kernels, trimode.workers
for package in (trimode.kernels, trimode.workers):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""


@pytest.mark.process
def test_every_module_imports_without_triton_ray_hydra_and_llvmlite() -> None:
    environment = {"PYTHONPATH": str(PROJECT_DIR / ".types"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert {"trimode.kernels.rms_norm.cuda", "trimode.kernels.resources.cubin", "trimode.workers.runtime"} <= {*modules}
