"""The served model as /v1/models shows it, and the version of the server."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trimode.balancer.api.errors import JsonResponse
from trimode.balancer.api.service import Json, Service
from trimode.core.errors import InvalidRequestError
from trimode.core.field_rules import show
from trimode.core.protocol import Mode


def model_routes(service: Service) -> list[Route]:
    """Returns the routes that say what is served."""

    async def models(_: Request) -> Response:
        return JsonResponse({"object": "list", "data": [_model_card(service)] if service.infos() else []})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        info = service.served()
        if name not in (info.served_model_name, info.model):
            message = f"model: got {show(name)}; valid: {info.served_model_name}"
            raise InvalidRequestError(message, "model", 404, "model_not_found")
        return JsonResponse(_model_card(service))

    async def shown_version(_: Request) -> Response:
        return JsonResponse({"version": own_version()})

    return [
        Route("/v1/models", models, methods=["GET"]),
        # a hub id holds a slash
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/version", shown_version, methods=["GET"]),
    ]


def own_version() -> str:
    """Returns the version of this project; "unknown" where it runs without being installed."""
    try:
        return version("trimode")
    except PackageNotFoundError:
        return "unknown"


def _model_card(service: Service) -> Json:
    info = service.served()
    return {
        "id": info.served_model_name,
        "object": "model",
        "created": int(service.started),
        "owned_by": "trimode",
        "root": info.model,
        "max_model_len": info.max_model_len,
        "modes": [mode.value for mode in Mode],
        "default_mode": service.default_mode.value,
        "lora": info.lora,
        "dtype": info.dtype,
        "quantization": info.quantization,
    }
