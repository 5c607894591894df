"""/openapi.json, and /docs: the same as a page that needs nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from trimode.balancer.api.errors import JsonResponse
from trimode.balancer.api.openapi import openapi

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h2 { margin: 2rem 0 0; font-size: 1.1rem } code, h2 { font-family: ui-monospace, monospace }
p { margin: .25rem 0 } .table { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0 } td, th { text-align: left; padding: .15rem 1rem .15rem 0;
  vertical-align: top; border-bottom: 1px solid #ddd }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #161616 } td, th { border-color: #444 }
  a { color: #8ab4f8 } }
"""


def docs_routes() -> list[Route]:
    """Returns the routes."""

    async def description(_: Request) -> Response:
        return JsonResponse(openapi())

    async def docs(_: Request) -> Response:
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(docs_page(), headers=policy)

    return [Route("/openapi.json", description, methods=["GET"]), Route("/docs", docs, methods=["GET"])]


@cache
def docs_page() -> str:
    """Returns the page."""
    described = openapi()
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>trimode API</title><style>{STYLE}</style>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<h1>trimode {escape(described['info']['version'])}</h1>",
        '<p>OpenAI-compatible server. The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>")
            body = operation.get("requestBody")
            if body is not None and not operation["summary"].startswith("The same"):
                parts.append(_fields(body["content"]["application/json"]["schema"]))
    return "".join(parts) + "</html>"


def _fields(schema: dict[str, Any]) -> str:
    """Returns the table of a body's fields."""
    choices = schema.get("anyOf", [schema])
    properties: dict[str, Any] = {}
    required = set.intersection(*(set(choice["required"]) for choice in choices))
    for choice in choices:
        properties |= choice["properties"]
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' (required)' if name in required else ''}<td>{escape(_valid(kind))}"
        for name, kind in properties.items()
    ]
    return f'<div class="table"><table><tr><th>field<th>valid{"".join(rows)}</table></div>'


def _valid(schema: dict[str, Any]) -> str:
    """Returns what a field may be, in words."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(_valid(choice) for choice in schema["anyOf"])
    kind = schema.get("type", "anything")
    if kind == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"a list of {_valid(schema['items'])}{most}"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    if low is not None:
        above = "above " if "exclusiveMinimum" in schema else ""
        return f"{kind}, {above}{low} to {schema['maximum']}"
    if kind == "object" and schema.get("properties"):
        return f"object with {', '.join(schema['properties'])}"
    return str(kind)
