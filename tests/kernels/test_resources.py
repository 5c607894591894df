"""Every Triton kernel is compiled for every chip in every configuration: no spill, shared memory fits, MMA is used."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trimode.kernels.cuda.offline import ARCHITECTURES, Compiled
from trimode.kernels.resources.__main__ import operators
from trimode.kernels.resources.cubin import Usage

pytest.importorskip("triton")


def run(*arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, because this one has Triton as an interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = f"import sys\n{prelude}\nfrom trimode.kernels.resources.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("operator", operators())
def test_every_kernel_fits_every_chip(operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = run("--op", operator)
    assert done.returncode == 0, done.stdout + done.stderr
    chips = {line.split("|")[3].strip() for line in done.stdout.splitlines()[2:]}
    assert chips == {f"sm_{capability}" for capability in ARCHITECTURES}


@pytest.mark.process
@pytest.mark.slow
def test_a_kernel_that_does_not_compile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from __future__ import annotations\n"
        "from trimode.kernels.cuda.runtime import jit, tl\n"
        "@jit\n"
        "def _rms_norm(x_at, weight_at, out_at, x_stride, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):\n"
        "    tl.store(out_at + tl.arange(0, 3), 0.0)\n"
    )
    prelude = f"sys.path.insert(0, {str(tmp_path)!r})\nimport broken\n"
    prelude += "from trimode.kernels.rms_norm import cuda\ncuda._rms_norm = broken._rms_norm"
    done = run("--op", "rms_norm", "--arch", "90", prelude=prelude)
    assert done.returncode == 1
    assert "error: rms_norm: _rms_norm for sm_90" in done.stderr
    assert "power of 2" in done.stderr


def usage(**changes: object) -> Usage:
    kernel = Compiled("k", 80, 4, 3, int(str(changes.pop("shared", 0))), b"", "")
    values: dict[str, object] = {"registers": 64, "spilled_bytes": 0, "programs_per_sm": 4, "mma": {}, "copies": {}}
    return Usage(kernel=kernel, **(values | changes))  # type: ignore[arg-type]


def test_problems_of_a_kernel() -> None:
    assert usage().problems(needs_mma=False) == []
    assert usage(mma={"mma.sync": 2}).problems(needs_mma=True) == []
    assert usage().problems(needs_mma=True) == ["a matrix product without matrix instructions"]
    assert usage(spilled_bytes=8).problems(needs_mma=False) == ["8 bytes of registers spilled"]
    assert usage(shared=170000).problems(needs_mma=False) == ["170000 bytes of shared memory, the chip has 166912"]
    streams = usage(mma={"mma.sync": 2}, copies={"cp.async.cg": 4})
    assert streams.problems(needs_mma=False, streams=True) == []
    hopper = dataclasses.replace(streams, kernel=dataclasses.replace(streams.kernel, capability=90), copies={})
    assert hopper.problems(needs_mma=True, streams=True) == [
        "mma.sync where wgmma.mma_async is expected",
        "no copies of 16 bytes",
    ]
    assert usage().occupancy == 4 * 4 * 32 / 2048


def test_meta_tensors_are_refused_outside_of_compiling() -> None:
    from trimode.kernels.cuda import runtime

    assert runtime.refusal(torch.empty(2, device="meta")) == "no GPU kernel for meta"
