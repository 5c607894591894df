"""`python -m trimode.balancer`: serves one model on every device of this machine.

Knows only the way from the command line to an exit status: 0 stopped, 1 could not start or go on, 2 the user's error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from trimode.balancer.server import run_balancer
from trimode.balancer.settings import parse_settings
from trimode.workers.protocol import ConfigError, WorkerError


def main(argv: Sequence[str]) -> int:
    """Runs the balancer; errors become one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("trimode").setLevel(logging.INFO)
    try:
        run_balancer(parse_settings(argv))
    except ConfigError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except WorkerError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is closed; Ray's exit handlers would only wait
