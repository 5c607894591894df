"""The decoding modes, the scheduler and their tests load without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TYPES = HERE.parents[1] / ".types"
ENGINE = ("test_scheduler", "test_counters")


@pytest.mark.process
def test_tests_of_pure_python_load_no_torch() -> None:
    modules = ["trimode.tests.workers.conftest", *(f"trimode.tests.workers.engine.{name}" for name in ENGINE)]
    modules += [f"trimode.tests.workers.decode.{path.stem}" for path in (HERE / "decode").glob("test_*.py")]
    code = f"import sys; import {', '.join(sorted(modules))}; print('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(TYPES), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
