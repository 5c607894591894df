"""What goes wrong with a server, in words that say what the user can do."""

from __future__ import annotations

import json
import re
import ssl

import httpx
from trimode.pipeline.spec import ServerSpec

MAX_MESSAGE = 500
"""Characters of a server's message that are shown."""
FATAL = frozenset({401, 404, 405, 301, 302, 303, 307, 308})
"""Statuses that every further request would get too: wrong key, model, route or address."""
_CONTEXT = re.compile(r"context|maximum.{0,20}(length|tokens)|max_model_len|too long", re.IGNORECASE)


def error_message(text: str) -> str:
    """Returns the message in an error body: OpenAI's, FastAPI's (`detail`), or the text itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and name in value:
            value = value[name]
            if isinstance(value, dict):
                value = value.get("message", value)
            break
    shown = " ".join((value if isinstance(value, str) else text).split())
    return "".join(char for char in shown if char.isprintable())[:MAX_MESSAGE] or "no message"


def explain_status(server: ServerSpec, status: int, text: str, location: str = "") -> str:
    """Returns `HTTP <status>: <what the server says>`, and what can be done where that is known."""
    said = f"HTTP {status}: {error_message(text)}"
    if 300 <= status < 400:
        return f"HTTP {status}: {server.url} leads to {location or 'another place'}; valid: that address (--server)"
    if status == 401:
        key = "refuses this API key" if server.api_key_file else "asks for an API key, and none was given"
        return f"{said}; the server {key}; valid: --api-key-file with the server's key"
    if status == 403:
        return f"{said}; the server refuses this request or this API key"
    if status in (404, 405):
        return f"{said}; valid: a model that {server.url}/models lists (--model), and the address of the API (--server)"
    if status == 429:
        return f"{said}; the server takes no more; fewer at a time: --max-in-flight"
    if status == 400 and _CONTEXT.search(said):
        return f"{said}; fewer tokens per answer leave more room for the prompt"
    return said


def explain_transport(url: str, error: httpx.TransportError) -> str:
    """Returns why no reply came."""
    text = str(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"no secure connection to {url}: {text}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectTimeout):
        return f"no server answers at {url} (no connection in time)"
    if isinstance(error, httpx.ConnectError):
        return f"no server answers at {url} ({text})"
    if isinstance(error, httpx.TimeoutException):
        return f"{url} did not answer in time"
    return f"the connection to {url} broke ({type(error).__name__}: {text})"
