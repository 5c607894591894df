"""Addresses of servers, and keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.server.address import api_base, headers, is_loopback, read_key
from trimode.pipeline.spec import ServerSpec


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://gpu7:8000", "http://gpu7:8000/v1"),
        ("http://gpu7:8000/", "http://gpu7:8000/v1"),
        ("http://gpu7:8000/v1", "http://gpu7:8000/v1"),
        (" http://gpu7:8000/v1/ ", "http://gpu7:8000/v1"),
        ("http://gpu7:8000/v1/chat/completions", "http://gpu7:8000/v1"),
        ("https://a.example/api/paas/v4", "https://a.example/api/paas/v4"),
        ("https://a.example/gemini/v1beta", "https://a.example/gemini/v1beta"),
        ("https://a.example/openai", "https://a.example/openai/v1"),
        ("http://[::1]:9", "http://[::1]:9/v1"),
    ],
)
def test_routes_are_appended_to_a_version(given: str, base: str) -> None:
    assert api_base(given) == base
    assert api_base(base) == base


@pytest.mark.parametrize(
    "given",
    [
        "gpu7:8000",
        "ftp://gpu7",
        "http://",
        "",
        "http://a:0",
        "http://a:99999",
        "http://a b",
        "http://a/?x=1",
        "http://a#b",
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="valid: http"):
        api_base(given)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="api-key-file") as error:
        api_base("http://user:secret@host:1")
    assert "secret" not in str(error.value)


def test_proxies_are_for_other_machines() -> None:
    assert is_loopback("http://127.0.0.1:1/v1")
    assert is_loopback("http://localhost:1/v1")
    assert is_loopback("http://[::1]:1/v1")
    assert not is_loopback("http://gpu7:1/v1")


def test_a_key_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    assert headers(ServerSpec(url="", engine="x", api_key_file=str(file))) == {"Authorization": "Bearer sk-1"}
    assert headers(ServerSpec(url="", engine="x")) == {"Authorization": "Bearer EMPTY"}


@pytest.mark.parametrize("content", ["", "\n", "two keys", "a\nb", "k\u00e9y"])
def test_a_file_without_one_key_is_refused_without_its_content(content: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(ConfigError, match="holds no key") as error:
        read_key(str(file))
    assert not content.strip() or content.strip() not in str(error.value)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(str(tmp_path / "none"))
