"""A root folder with the GPUs that a test pretends to have, read through `trimode.core.devices.ROOT`."""

from __future__ import annotations

from pathlib import Path


def machine(root: Path, *, listed: int = 0, files: int = 0, wsl: bool = False) -> Path:
    """Fills `root` with `listed` GPUs of the driver and `files` device files; returns it."""
    (root / "dev").mkdir(parents=True)
    for number in range(listed):
        (root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0").mkdir(parents=True)
    for name in (*(f"nvidia{number}" for number in range(files)), *(("nvidiactl", "nvidia-uvm") if files else ())):
        (root / "dev" / name).touch()
    if wsl:
        (root / "dev/dxg").touch()
    return root


def import_path(folder: Path, num_gpus: int) -> str:
    """A PYTHONPATH entry below `folder`; a process of this project that has it sees `num_gpus` GPUs."""
    root = machine(folder / "machine", files=num_gpus)
    entry = folder / "pretend"
    entry.mkdir()
    lines = ("from pathlib import Path", "from trimode.core import devices", f"devices.ROOT = Path({str(root)!r})", "")
    # Python runs a module of this name when it starts.
    (entry / "sitecustomize.py").write_text("\n".join(lines))
    return str(entry)
