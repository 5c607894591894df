"""Every failure of a request becomes an OpenAI error body."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from trimode.balancer.api.fields import DECODING_FIELDS, OWN_FIELDS
from trimode.balancer.api.prompts import TOO_LONG
from trimode.balancer.api.rendering import to_json, to_json_in_pieces
from trimode.balancer.api.replies import error_body
from trimode.balancer.work import TryLaterError
from trimode.core.errors import GenerationError, InvalidRequestError, WorkerError
from trimode.core.field_rules import CONTEXT_EXCEEDED


class JsonResponse(JSONResponse):
    """A JSON reply. Half a surrogate pair in a text is sent as its JSON escape, since UTF-8 has no form for it."""

    def render(self, content: object) -> bytes:
        """Returns the body."""
        return to_json(content).encode("utf-8", "backslashreplace")


class LargeJsonResponse(JsonResponse):
    """The same for a large reply that a thread makes."""

    def render(self, content: object) -> bytes:
        """Returns the body."""
        return to_json_in_pieces(content).encode("utf-8", "backslashreplace")


def error_response(message: str, status: int, param: str | None = None, code: str | None = None) -> JsonResponse:
    """Returns an OpenAI error body as a reply."""
    return JsonResponse(error_body(message, status, param, code), status_code=status)


async def _http_error(request: Request, error: Exception) -> Response:
    """Of an unknown route or method."""
    assert isinstance(error, HTTPException)
    called = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 404:
        return error_response(f"Invalid URL ({called}); /docs lists the routes", 404, code="unknown_url")
    response = error_response(f"Invalid method ({called})", error.status_code, code="method_not_supported")
    response.headers.update(error.headers or {})
    return response


async def _invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    return error_response(error.message, error.status, error.param, error.code)


async def _generation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GenerationError)
    if error.message.startswith(CONTEXT_EXCEEDED):
        prompt = "messages" if request.url.path.endswith("/chat/completions") else "prompt"
        return error_response(error.message, error.status, prompt, TOO_LONG)
    # the project's messages begin with the field at fault
    first = re.match(r"\w+", error.message)
    param = first.group() if first and first.group() in DECODING_FIELDS | OWN_FIELDS else None
    response = error_response(error.message, error.status, param)
    if isinstance(error, TryLaterError):
        response.headers["retry-after"] = str(error.retry_after_s)
    return response


async def _worker_error(_: Request, error: Exception) -> Response:
    response = error_response(str(error), 500)
    response.headers["x-should-retry"] = "false"  # it was tried on several workers, and they died
    return response


async def _client_left(_request: Request, _left: Exception) -> Response:
    return Response(status_code=499)


async def _defect(_request: Request, _error_of_ours: Exception) -> Response:
    """Of anything unexpected. The traceback goes to the log, since the server raises the error again."""
    return error_response("the server failed on this request; its log has the cause", 500)


ERROR_HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    HTTPException: _http_error,
    InvalidRequestError: _invalid_request,
    GenerationError: _generation_error,
    WorkerError: _worker_error,
    ClientDisconnect: _client_left,
    Exception: _defect,
}


async def reply_to_failure(request: Request, error: Exception) -> Response:
    """Returns the reply to a request that failed with `error`."""
    handler = next(ERROR_HANDLERS[kind] for kind in type(error).__mro__ if kind in ERROR_HANDLERS)
    return await handler(request, error)
