"""Which model a server has, and its errors in words."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from trimode.core.errors import ConfigError, WorkerError
from trimode.pipeline.server.address import api_base
from trimode.pipeline.server.models import ServedModel, find_model, list_models
from trimode.pipeline.spec import ServerSpec
from trimode.tests.fakes.openai_server import OpenAIServer, Reply, failure


def spec(fake: OpenAIServer, key_file: Path | None = None) -> ServerSpec:
    return ServerSpec(url=api_base(fake.url), engine="x", api_key_file=str(key_file) if key_file else None)


def test_the_only_model_needs_no_name() -> None:
    with OpenAIServer() as fake:
        assert find_model(spec(fake), "") == ServedModel(name="tiny", owned_by="fake-engine")


def test_the_context_is_taken_where_a_server_says_it() -> None:
    def listed() -> Reply:
        return 200, {"data": [{"id": "a", "max_model_len": 4096}]}, {}

    with OpenAIServer(listed=listed) as fake:
        assert find_model(spec(fake), "a").max_model_len == 4096


def test_one_of_several_must_be_named() -> None:
    with OpenAIServer(models=("a", "b")) as fake:
        assert find_model(spec(fake), "b").name == "b"
        with pytest.raises(ConfigError, match=r"several models: a, b; valid: one of them"):
            find_model(spec(fake), "")
        with pytest.raises(ConfigError, match=r"got 'c', which .* does not have; valid: a, b"):
            find_model(spec(fake), "c")


def test_a_server_without_a_list_is_believed() -> None:
    with OpenAIServer(listed=lambda: (404, {"detail": "Not Found"}, {})) as fake:
        assert find_model(spec(fake), "mine") == ServedModel(name="mine", listed=False)
        with pytest.raises(ConfigError, match="valid: the model's name"):
            find_model(spec(fake), "")


def test_a_key_is_asked_for_in_words(tmp_path: Path) -> None:
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    wrong.write_text("sk-wrong")
    right.write_text("sk-right")
    with OpenAIServer(key="sk-right") as fake:
        assert find_model(spec(fake, right), "").name == "tiny"
        with pytest.raises(ConfigError, match="asks for an API key, and none was given"):
            find_model(spec(fake), "")
        with pytest.raises(ConfigError, match="refuses this API key") as error:
            find_model(spec(fake, wrong), "")
        assert "sk-wrong" not in str(error.value)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, "<html>hello</html>", {}), "no list of models"),
        ((200, {"object": "list"}, {}), "no list of models"),
        ((200, {"data": []}, {}), "lists no model"),
        ((307, "", {"location": "https://there/v1/models"}), "leads to https://there/v1/models"),
        (failure(403, "not for you"), "HTTP 403: not for you"),
    ],
)
def test_what_is_no_list_is_said(reply: Reply, said: str) -> None:
    with OpenAIServer(listed=lambda: reply) as fake, pytest.raises(ConfigError, match=said):
        find_model(spec(fake), "")


def test_a_server_that_starts_up_may_be_tried_again() -> None:
    with OpenAIServer(listed=lambda: failure(503, "loading")) as fake, pytest.raises(WorkerError, match="loading"):
        list_models(spec(fake))


def test_no_server_is_said_with_its_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(WorkerError, match=f"no server answers at {url} .*refused"):
            find_model(ServerSpec(url=url, engine="x"), "")


def test_a_host_that_does_not_exist_is_said() -> None:
    with pytest.raises(WorkerError, match=r"no server answers at http://no-such-host\.invalid/v1"):
        find_model(ServerSpec(url="http://no-such-host.invalid/v1", engine="x"), "")
