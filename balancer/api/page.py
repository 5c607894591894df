"""The routes of the chat page. It holds nothing secret, so they ask for no key."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trimode.balancer.chat_page.page import page, served_policy


def page_routes() -> list[Route]:
    """Returns the routes: the page, and the same document to save and open from disk."""
    return [Route("/", _show, methods=["GET"]), Route("/chat.html", _save, methods=["GET"])]


async def _show(request: Request) -> Response:
    headers = {
        "Content-Security-Policy": served_policy(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(page().encode()).hexdigest()[:32]}"',
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(page(), media_type="text/html", headers=headers)


async def _save(request: Request) -> Response:
    response = await _show(request)
    response.headers["Content-Disposition"] = 'attachment; filename="chat.html"'
    return response
