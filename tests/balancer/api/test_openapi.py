"""The description of the API: it names what there is, and the page shows it without anything from elsewhere."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.routing import Route
from trimode.balancer.api.docs import docs_page
from trimode.balancer.api.fields import DECODING_FIELDS
from trimode.balancer.api.openapi import PATHS, openapi, schema
from trimode.core.errors import GenerationError
from trimode.core.field_rules import FIELD_RULES
from trimode.tests.fakes.app import CHAT, COMPLETIONS, AppBench, StrictWorker


def fields(path: str) -> dict[str, Any]:
    body = openapi()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    properties: dict[str, Any] = body["properties"]
    return properties


def test_every_route_of_the_api_is_described() -> None:
    routes = AppBench(StrictWorker).app().routes
    known = {route.path.replace(":path", "") for route in routes if isinstance(route, Route)}
    probes = {"/", "/v1", "/v1/", "/chat.html"}
    assert known - probes == set(PATHS) == set(openapi()["paths"])


def test_every_field_of_decoding_is_described() -> None:
    for path in (CHAT, COMPLETIONS):
        assert fields(path).keys() >= DECODING_FIELDS
    assert fields(CHAT)["temperature"] == {"type": "number", "minimum": 0.0, "maximum": 100.0}
    assert fields(CHAT)["mode"] == {"enum": ["ar", "dlm", "linear_spec", "auto"]}


@pytest.mark.parametrize("name", sorted(FIELD_RULES))
def test_the_bounds_of_a_schema_are_those_of_its_rule(name: str) -> None:
    described = schema(FIELD_RULES[name])
    for bound, beyond in (("minimum", -1), ("maximum", 1)):
        if bound in described:
            FIELD_RULES[name].read(name, described[bound])
            with pytest.raises(GenerationError):
                FIELD_RULES[name].read(name, described[bound] + beyond)


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = docs_page()
    assert "<script" not in page
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')>\s]+)", page) == ["openapi.json"]
    for path in PATHS:
        assert path in page
    assert "block_length" in page
    assert "integer, 1 to 1024" in page


def test_both_are_served() -> None:
    async def test() -> None:
        async with AppBench(StrictWorker).client() as client:
            assert (await client.get("/openapi.json")).json() == openapi()
            page: httpx.Response = await client.get("/docs")
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in page.headers["content-security-policy"]

    asyncio.run(test())
