"""Starts one module of the sandbox without the packages around it: python -I boot.py FOLDER MODULE [ARGUMENTS].

FOLDER is what the name `trimode` stands for. The packages on the way are empty there, so that a program starts in
milliseconds and the modules that run beside an answer are few.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

PACKAGES = (
    *("", "pipeline", "pipeline.scoring", "pipeline.scoring.sandbox", "pipeline.scoring.code"),
    "pipeline.scoring.code.plus",
)


def main() -> None:
    """Runs `main` of the module."""
    folder, module = sys.argv[1:3]
    sys.argv[:] = [module, *sys.argv[3:]]
    for name in PACKAGES:
        package = ModuleType(f"trimode.{name}".rstrip("."))
        package.__path__ = [str(Path(folder, *name.split(".")))]
        sys.modules[package.__name__] = package
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
