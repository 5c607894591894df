"""Where this project lies, and the environment in which a child process can import it."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
CONF_DIR = PROJECT_DIR / "conf"
BENCHMARK_DIR = CONF_DIR / "benchmark"
"""One YAML of facts per benchmark."""
ASSETS_DIR = PROJECT_DIR / "assets"
"""The demo model and the bundled benchmarks."""


def import_dir(project: Path) -> Path:
    """Returns the folder that has this project as `trimode`: `.types` in a checkout, else the installed one's parent.

    On PYTHONPATH, `import trimode` works from it.
    """
    types = project / ".types"
    return types if (types / "trimode").is_dir() else project.parent


IMPORT_DIR = import_dir(PROJECT_DIR)


def child_environment(**changes: str) -> dict[str, str]:
    """Returns this process's environment for a child in which `import trimode` works from any folder, plus `changes`.

    Relative entries of PYTHONPATH become absolute. The child's current folder is not searched: a folder that holds
    `kernels` or `data` would hide packages of these names.
    """
    entries = [str(IMPORT_DIR)]
    entries += [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = os.pathsep.join(dict.fromkeys(entries))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **changes}
