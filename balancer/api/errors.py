"""Every failure of a request becomes an OpenAI error body."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from trimode.balancer.api.fields import DECODING_FIELDS, OWN_FIELDS
from trimode.balancer.api.replies import error_body
from trimode.balancer.work import TryLaterError
from trimode.core.errors import GenerationError, InvalidRequestError, WorkerError


class JsonResponse(JSONResponse):
    """A JSON reply. Half a surrogate pair in a text is sent as its JSON escape, since UTF-8 has no form for it."""

    def render(self, content: object) -> bytes:
        """Returns the body."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def error_response(message: str, status: int, param: str | None = None, code: str | None = None) -> JsonResponse:
    """Returns an OpenAI error body as a reply."""
    return JsonResponse(error_body(message, status, param, code), status_code=status)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.detail, error.status_code)


async def _invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidRequestError)
    return error_response(error.message, error.status, error.param, error.code)


async def _generation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GenerationError)
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
