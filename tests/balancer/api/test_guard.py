"""Who may ask: hosts and origins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from trimode.balancer.api.guard import Visitors
from trimode.tests.fakes.app import CHAT, HELLO, AppBench, StrictWorker, error_of, post


def run(visitors: Visitors, test: Callable[[AppBench, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def with_bench() -> None:
        bench = AppBench(StrictWorker, num_workers=1)
        bench.service.visitors = visitors
        async with bench.client() as client:
            await test(bench, client)

    asyncio.run(with_bench())


def worker(bench: AppBench) -> StrictWorker:
    found = bench.workers[0]
    assert isinstance(found, StrictWorker)
    return found


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "box:1"])
def test_loopback_and_named_hosts_are_answered(host: str) -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        assert (await post(client, {"messages": HELLO}, host=host)).status_code == 200

    run(Visitors(loopback_only=True, hosts=frozenset({"box"})), test)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "192.168.1.4", "[2001:db8::1]"]
)
def test_a_name_that_somebody_let_point_here_is_refused(host: str) -> None:
    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        refused = await post(client, {"messages": HELLO}, host=host)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "host_not_allowed")
        assert not worker(bench).fields

    run(Visitors(loopback_only=True), test)


def test_beyond_loopback_the_key_protects() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        assert (await post(client, {"messages": HELLO}, host="node7.cluster")).status_code == 200

    run(Visitors(), test)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9999", "http://balancer.evil.example"]
)
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
def test_a_foreign_page_spends_no_compute(origin: str, method: str) -> None:
    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        headers = {"origin": origin, "content-type": "application/json", "access-control-request-method": "POST"}
        refused = await client.request(method, CHAT, json={"messages": HELLO}, headers=headers)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in refused.headers
        assert not worker(bench).fields

    run(Visitors(), test)


def test_a_request_without_a_host_is_nobodys_own_page() -> None:
    async def test(bench: AppBench, client: httpx.AsyncClient) -> None:
        for origin in ("null", "", "file://"):
            assert (await post(client, {"messages": HELLO}, origin=origin, host="")).status_code == 403
        assert not worker(bench).fields

    run(Visitors(loopback_only=True), test)


def test_the_servers_own_page_may_ask() -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        reply = await post(client, {"messages": HELLO}, origin="http://balancer")
        assert reply.status_code == 200
        assert "access-control-allow-origin" not in reply.headers

    run(Visitors(), test)


@pytest.mark.parametrize("origin", ["https://chat.example", "null"])
def test_a_named_origin_may_ask_and_read(origin: str) -> None:
    async def test(_: AppBench, client: httpx.AsyncClient) -> None:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        preflight = await client.options(CHAT, headers=asked)
        assert preflight.status_code == 204
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        for body, status in ({"messages": HELLO}, 200), ({"messages": []}, 400):
            reply = await post(client, body, origin=origin)
            assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, origin)
            assert reply.headers["vary"] == "origin"

    run(Visitors(origins=frozenset({"https://chat.example", "null"})), test)
