"""`python -m trimode.balancer`: serves one model on every device of this machine.

Checks the command line, prepares folder and environment, and becomes the server. Knows no Ray, which reads its
environment when it is imported: that comes after.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import trimode
from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.placement import place_workers
from trimode.balancer.settings import parse_settings
from trimode.core.errors import ConfigError


def main(argv: Sequence[str]) -> NoReturn:
    """Becomes the server; exits with status 2 and one line on stderr for the user's error."""
    try:
        place_workers(parse_settings(argv))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # thousands of clients may wait at once
    folder = PrivateFolder.create()
    environment = {
        **os.environ,
        **folder.environment(),
        "PYTHONPATH": _import_path(),
        "PYTHONSAFEPATH": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder.write_token()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray would have its workers yield to everything else on the machine
        # on a crowded machine processes come up slowly; that is no failure
        "RAY_NUM_REDIS_GET_RETRIES": "120",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_agent_register_timeout_ms": "300000",
    }
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):  # another Ray on this machine is not ours
        environment.pop(name, None)
    command = [sys.executable, "-m", "trimode.balancer.server", *argv]
    os.execve(sys.executable, command, environment)  # noqa: S606 (the arguments are a list; no shell is wanted)


def _import_path() -> str:
    """PYTHONPATH with which `import trimode` works from any folder: absolute, and with this package's own place."""
    entries = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for package_dir in trimode.__path__:
        parent = Path(package_dir).absolute().parent
        if (parent / "trimode").exists() and str(parent) not in entries:
            entries.append(str(parent))
    return os.pathsep.join(entries)


if __name__ == "__main__":
    main(sys.argv[1:])
