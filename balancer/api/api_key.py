"""The bearer key of a server: without it every path is refused but /health and the chat page, unknown ones included."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send
from trimode.balancer.api.errors import error_response

OPEN_PATHS = frozenset({"/health", "/", "/chat.html"})
"""Paths that answer without a key. A browser can send none when it opens the chat page, which holds nothing secret."""


class KeyRequired:
    """Stands before the routes, so that no route can forget to ask for the key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 401."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or carries_key(scope["headers"], self._api_key):
            await self._app(scope, receive, send)
            return
        response = error_response("the API key is missing or wrong", 401, code="invalid_api_key")
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)


def carries_key(headers: Iterable[tuple[bytes, bytes]], api_key: str) -> bool:
    """True if a request has `Authorization: Bearer KEY`. The comparison takes as long for every key of this length."""
    value = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, key = value.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), api_key.encode())
