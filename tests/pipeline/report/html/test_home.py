"""Drawing leaves nothing in the user's home folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from trimode.core.project import child_environment


@pytest.mark.process
def test_drawing_makes_no_folders_in_the_home(tmp_path: Path) -> None:
    code = (
        "import trimode.pipeline.report.html.svg as svg; from matplotlib.figure import Figure;"
        "figure = Figure(); figure.subplots().set_title('x'); figure.savefig('drawn.svg')"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)} | child_environment()
    environment = {name: text for name, text in environment.items() if name not in ("MPLCONFIGDIR", "XDG_CACHE_HOME")}
    environment["HOME"] = str(home)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "drawn.svg").exists()
    assert list(home.rglob("*")) == []
