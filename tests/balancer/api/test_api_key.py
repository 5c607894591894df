"""The bearer key: every path but /health and the chat page is closed without it."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from trimode.balancer.api.api_key import carries_key
from trimode.tests.fakes.app import CHAT, COMPLETIONS, HELLO, AppBench, StrictWorker, error_of

KEY = "s3cret-key"


def asked(method: str, path: str, headers: dict[str, str], key: str | None = KEY) -> httpx.Response:
    async def run() -> httpx.Response:
        bench = AppBench(StrictWorker)
        bench.service.api_key = key
        async with bench.client() as client:
            return await client.request(method, path, headers=headers, json={"messages": HELLO})

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT),
        ("POST", COMPLETIONS),
        ("GET", "/v1/models"),
        ("GET", "/stats"),
        ("GET", "/v1/"),
        ("GET", "/index.html"),
        ("PUT", "/v1"),
        ("GET", "/health/"),
        ("GET", "/nowhere"),
        ("OPTIONS", CHAT),
    ],
)
def test_every_path_is_closed_without_the_key(method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}):
        response = asked(method, path, headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        error = error_of(response)
        assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
        assert KEY not in response.text


def test_health_is_open() -> None:
    assert asked("GET", "/health", {}).status_code == 200


def test_the_key_opens() -> None:
    assert asked("POST", CHAT, {"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert asked("GET", "/nowhere", {"authorization": f"bearer  {KEY} "}).status_code == 404


def test_without_a_key_all_is_open() -> None:
    assert asked("POST", CHAT, {}, None).status_code == 200


def test_any_bytes_of_a_header_are_compared() -> None:
    assert not carries_key([(b"authorization", b"Bearer \xff\xfe")], KEY)
    assert not carries_key([(b"authorization", b"")], KEY)
    assert carries_key([(b"x", b"y"), (b"authorization", b"Bearer " + KEY.encode())], KEY)
