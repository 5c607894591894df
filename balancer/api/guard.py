"""Keeps web pages away: requests from other origins or under foreign host names, unless they are named.

A page in a browser can send requests to this machine's loopback address, directly or by a name of its own that it lets
point there. The browser states the page's origin and that name, so both are checked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from trimode.balancer.api.errors import error_response
from trimode.core.field_rules import show

ANY = "*"
"""Stands for every origin or host name."""
EXPOSED = "x-request-id, x-trimode-ignored-fields, retry-after"
"""Headers of a reply that a page may read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitors:
    """Whom the server answers."""

    loopback_only: bool = False
    """True if a Host header must name this machine's loopback address, or one of `hosts`."""
    hosts: AbstractSet[str] = frozenset()
    """More names that a Host header may have, without port."""
    origins: AbstractSet[str] = frozenset()
    """Origins of web pages that may ask, such as `https://chat.example` or `null` for a page from a file."""

    def admits_host(self, host: str) -> bool:
        """True if a Host header may have this value."""
        name = _without_port(host)
        if not self.loopback_only or not host or ANY in self.hosts:
            return True
        return name in self.hosts or name == "localhost" or _is_loopback(name)

    def admits_origin(self, origin: str, host: str) -> bool:
        """True if a page of this origin may ask: it comes from this server or is named."""
        own = bool(host) and origin.partition("://")[2].lower() == host.lower()
        return own or self.names(origin)

    def names(self, origin: str) -> bool:
        """True if the origin is named, so that its pages may read the replies."""
        return origin in self.origins or ANY in self.origins


class Guard:
    """Refuses requests before any route sees them. Writes the headers that let named origins read the replies."""

    def __init__(self, app: ASGIApp, visitors: Visitors) -> None:
        self._app = app
        self._visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._visitors.admits_host(host):
            message = f"host: got {show(host)}; valid: localhost, a loopback address, or a name given with --allow-host"
            await error_response(message, 403, code="host_not_allowed")(scope, receive, send)
        elif origin is None:
            await self._app(scope, receive, send)
        elif not self._visitors.admits_origin(origin, host):
            message = f"origin: got {show(origin)}; valid: this server's own pages, or one given with --allow-origin"
            await error_response(message, 403, code="origin_not_allowed")(scope, receive, send)
        elif not self._visitors.names(origin):
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(origin)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send, origin))


def _preflight(origin: str) -> Response:
    allowed = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST, PUT",
        "access-control-allow-headers": "authorization, content-type, x-request-id",
        "access-control-max-age": "600",
        "vary": "origin",
    }
    return Response(status_code=204, headers=allowed)


def _with_headers(send: Send, origin: str) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = EXPOSED
            headers.add_vary_header("origin")
        await send(message)

    return send_more


def _without_port(host: str) -> str:
    """Returns the name or address of a Host header, in lower case and without brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
