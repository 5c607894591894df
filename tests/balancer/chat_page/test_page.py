"""The document that the files make, and how the server sends it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from trimode.balancer.api.page import page_routes
from trimode.balancer.chat_page.__main__ import main
from trimode.balancer.chat_page.page import page, served_policy
from trimode.core.project import PROJECT_DIR
from trimode.tests.fakes.app import AppBench, StrictWorker

FOLDER = PROJECT_DIR / "balancer" / "chat_page"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".html"))


def meta_policy() -> str:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page())
    assert found is not None
    return found[1]


def test_the_document_needs_no_other_file() -> None:
    assert '<link rel="stylesheet"' not in page()
    assert "<script src" not in page()
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page().split("<script>")[0]) == []
    for path in FILES:
        if path.suffix != ".html":
            assert path.read_text(encoding="utf-8") in page()


@pytest.mark.parametrize("policy", [meta_policy(), served_policy()], ids=["meta", "header"])
def test_the_policy_lets_the_page_s_own_code_run_and_no_other(policy: str) -> None:
    for tag in ("script", "style"):
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", page(), re.DOTALL)
        hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in contents}
        (allowed,) = re.findall(rf"{tag}-src ([^;]*);", policy)
        assert set(allowed.split()) == hashes
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_served_page_speaks_with_its_server_alone() -> None:
    assert "connect-src 'self';" in served_policy()
    assert "frame-ancestors 'none'" in served_policy()
    assert "connect-src http: https:;" in meta_policy()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short_and_parse_no_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    banned = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser|createContextualFragment"
    )
    assert re.findall(banned, text) == []
    assert re.findall(r"https?://(?!127\.0\.0\.1|www\.w3\.org/2000/svg)\w", text) == []


def test_every_file_is_part_of_the_page() -> None:
    index = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r'(?:src|href)="([a-z_]+\.(?:js|css))"', index)) == [
        path.name for path in FILES if path.suffix != ".html"
    ]


def test_the_server_sends_the_page_with_its_policy() -> None:
    client = TestClient(Starlette(routes=list(page_routes())))
    answer = client.get("/")
    assert answer.text == page()
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == served_policy()
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    saved = client.get("/chat.html")
    assert saved.text == page()
    assert "attachment" in saved.headers["content-disposition"]


def test_the_page_asks_for_no_key_and_the_model_does() -> None:
    bench = AppBench(StrictWorker)
    bench.service.api_key = "secret"

    async def statuses() -> list[int]:
        async with bench.client() as client:
            return [(await client.get(path)).status_code for path in ("/", "/chat.html", "/v1/models")]

    assert asyncio.run(statuses()) == [200, 200, 401]


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "chat.html"
    assert main(["--out", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == page()
    assert capsys.readouterr().out == f"wrote {target}\n"
