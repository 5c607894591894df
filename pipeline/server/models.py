"""Asks a server which models it has."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from trimode.core.errors import ConfigError, WorkerError
from trimode.pipeline.server.address import headers, is_loopback
from trimode.pipeline.server.errors import explain_status, explain_transport
from trimode.pipeline.spec import ServerSpec

TIMEOUT_S = 30.0
MAX_LISTED = 8
"""Names of models that an error lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model of a server, as far as the server says."""

    name: str
    """What requests call it."""
    owned_by: str | None = None
    """Mostly the name of the engine."""
    max_model_len: int | None = None
    """Prompt and answer of one request at most, in tokens."""
    modes: tuple[str, ...] = ()
    """Modes of this project's server; empty for others."""
    default_mode: str | None = None
    """How this project's server decodes requests that name no mode; None for others."""
    lora: bool = False
    """True if this project's server has loaded an adapter."""
    listed: bool = True
    """False if the server has no list of models, so that the name is only the user's."""


def find_model(server: ServerSpec, wanted: str) -> ServedModel:
    """Returns the server's model called `wanted`, or its only one if `wanted` is empty.

    Raises ConfigError if it has no such model, and WorkerError if it does not answer.
    """
    listed = list_models(server)
    if listed is None:
        if not wanted:
            raise ConfigError(f"{server.url}/models does not exist; valid: the model's name (--model)")
        return ServedModel(name=wanted, listed=False)
    shown = ", ".join(model.name for model in listed[:MAX_LISTED]) + (" ..." if len(listed) > MAX_LISTED else "")
    if not listed:
        raise ConfigError(f"{server.url}/models lists no model; valid: a server that has loaded one")
    if not wanted:
        if len(listed) > 1:
            raise ConfigError(f"{server.url} has several models: {shown}; valid: one of them (--model)")
        return listed[0]
    for model in listed:
        if model.name == wanted:
            return model
    raise ConfigError(f"--model: got {wanted!r}, which {server.url} does not have; valid: {shown}")


def list_models(server: ServerSpec) -> list[ServedModel] | None:
    """Returns the models in the order of the server's list; None if it has no such route.

    Raises ConfigError for a wrong key or address, WorkerError for a server that does not answer.
    """
    route = f"{server.url}/models"
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=not is_loopback(server.url)) as client:
            response = client.get(route, headers=headers(server))
    except httpx.TransportError as error:
        raise WorkerError(explain_transport(server.url, error)) from error
    status = response.status_code
    if status in (404, 405, 501):
        return None
    if status >= 500 or status == 429:
        raise WorkerError(f"{route}: {explain_status(server, status, response.text)}")
    if status != httpx.codes.OK:
        location = response.headers.get("location", "")
        raise ConfigError(f"{route}: {explain_status(server, status, response.text, location)}")
    try:
        return [_model(entry) for entry in response.json()["data"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{route} is no list of models ({type(error).__name__}: {error})"[:500]) from error


def _model(entry: dict[str, object]) -> ServedModel:
    """Returns one entry of the list. `max_model_len` is a field of vLLM, SGLang and this project's server."""
    owner, limit = entry.get("owned_by"), entry.get("max_model_len")
    modes, default_mode = entry.get("modes"), entry.get("default_mode")
    return ServedModel(
        name=str(entry["id"]),
        owned_by=str(owner) if owner else None,
        max_model_len=limit if isinstance(limit, int) and limit > 0 else None,
        modes=tuple(map(str, modes)) if isinstance(modes, list) else (),
        default_mode=default_mode if isinstance(default_mode, str) else None,
        lora=entry.get("lora") is True,
    )
