"""Runs programs in NeMo-Skills' sandbox service: one POST /execute per program.

Chosen by TRIMODE_SANDBOX=nemo_skills (host and port from NEMO_SKILLS_SANDBOX_HOST and NEMO_SKILLS_SANDBOX_PORT, as its
own clients read them) or TRIMODE_SANDBOX=http://HOST:PORT.
"""

from __future__ import annotations

import os

import httpx
from trimode.core.errors import ConfigError

STATUSES = ("completed", "error", "timeout")
ANSWER_MARGIN_S = 30.0
"""Seconds beyond a program's own limit to wait for the service."""


def service_url() -> str | None:
    """Returns the base address of the service, or None if programs run here. Raises ConfigError for another value."""
    choice = os.environ.get("TRIMODE_SANDBOX", "")
    if choice in ("", "local"):
        return None
    if choice == "nemo_skills":
        host = os.environ.get("NEMO_SKILLS_SANDBOX_HOST", "127.0.0.1")
        return f"http://{host}:{os.environ.get('NEMO_SKILLS_SANDBOX_PORT', '6000')}"
    if choice.startswith(("http://", "https://")):
        return choice.rstrip("/")
    valid = "local, nemo_skills, http://HOST:PORT"
    raise ConfigError(f"TRIMODE_SANDBOX names where programs run: got {choice!r}; valid: {valid}")


def execute_remotely(url: str, program: str, stdin: str, time_s: float, output_chars: int) -> dict[str, str]:
    """Returns status, stdout and stderr of a program. Raises ConnectionError if the service does not answer."""
    request = {
        "generated_code": program,
        "timeout": time_s,
        "language": "python3",
        "std_input": stdin,
        "max_output_characters": output_chars,
        "traceback_verbosity": "Plain",
    }
    try:
        response = httpx.post(f"{url}/execute", json=request, timeout=time_s + ANSWER_MARGIN_S)
        response.raise_for_status()
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ConnectionError(f"the sandbox service at {url} did not answer: {error}") from error
    status = answer.get("process_status")
    return {
        "status": status if status in STATUSES else "error",
        "stdout": str(answer.get("stdout") or ""),
        "stderr": str(answer.get("stderr") or ""),
    }
