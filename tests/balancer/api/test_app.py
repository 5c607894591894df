"""The HTTP surface of a running balancer, driven by the official OpenAI client where it can ask the question."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from trimode.balancer.api.prompts import prompt_sha256
from trimode.tests.fakes.balancer_process import RunningBalancer, wait_for
from trimode.tests.goldens import rows

pytestmark = pytest.mark.process

HELLO: Any = [{"role": "user", "content": "hello world"}]
NEMO_SKILLS_FIELDS: dict[str, Any] = {
    "frequency_penalty": 0.0,
    "logprobs": False,
    "n": 1,
    "presence_penalty": 0.0,
    "seed": 0,
    "temperature": 0.0,
    "top_p": 0.95,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "spaces_between_special_tokens": False,
}


def test_chat_completion(balancer: RunningBalancer) -> None:
    reply = balancer.openai().chat.completions.create(
        model="tri",
        messages=HELLO,
        max_tokens=16,
        extra_body={"mode": "linear_spec", "block_length": 8, "threshold": 0.5},
    )
    assert reply.object == "chat.completion"
    assert reply.model == "tri"
    assert reply.choices[0].message.content == "linear_spec hello world"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (2, 3, 5)


def test_usage_carries_the_ledger(balancer: RunningBalancer) -> None:
    usage = balancer.ask("hello").json()["usage"]
    assert usage["nfe"] == 2
    assert usage["tpf"] == 1.0
    assert usage["forwards"]["decode"] == 2
    assert usage["acceptance_lengths"] == []
    assert usage["queue_s"] >= 0.25
    assert usage["total_s"] > usage["first_token_s"] > usage["queue_s"]


def test_n_replies_are_counted_together(balancer: RunningBalancer) -> None:
    reply = balancer.openai().chat.completions.create(model="tri", messages=HELLO, n=3, seed=5)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    usage = reply.usage.model_dump() if reply.usage else {}
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["nfe"]) == (2, 9, 6)


def test_text_completion_from_text_and_from_ids(balancer: RunningBalancer) -> None:
    client = balancer.openai()
    reply = client.completions.create(model="tri", prompt="one two", max_tokens=4)
    assert reply.object == "text_completion"
    assert reply.choices[0].text == "ar one two"
    assert client.completions.create(model="tri", prompt=[5, 6]).choices[0].finish_reason == "stop"


def test_logprobs_name_tokens_by_their_text(balancer: RunningBalancer) -> None:
    client = balancer.openai()
    chat = client.chat.completions.create(model="tri", messages=HELLO, logprobs=True, top_logprobs=2)
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content or []
    assert [(entry.token, entry.bytes) for entry in content] == [("\x00", [0]), ("\x01", [1]), ("\x02", [2])]
    assert content[0].logprob == -0.5
    text = client.completions.create(model="tri", prompt="a", logprobs=1)
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.token_logprobs == [-0.5, -0.5]


def test_token_ids_on_request(balancer: RunningBalancer) -> None:
    assert balancer.ask("a b", return_token_ids=True).json()["choices"][0]["token_ids"] == [0, 1, 2]
    assert "token_ids" not in balancer.ask("a b").json()["choices"][0]


def test_models_say_what_is_served(balancer: RunningBalancer) -> None:
    model = balancer.openai().models.list().data[0].model_dump()
    assert model["id"] == "tri"
    assert model["max_model_len"] == 4096
    assert model["modes"] == ["ar", "dlm", "linear_spec", "auto"]
    assert model["lora"] is False


@pytest.mark.parametrize("method", ["PUT", "GET"])
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_probe_of_nemo_skills_is_answered(balancer: RunningBalancer, method: str, path: str) -> None:
    assert httpx.request(method, balancer.url + path).status_code == 200


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"max_tokens": 512, "mode": "ar", "steps": 4, "threshold": 0.9, "flag": True},
        {"logprobs": True, "stop": ["XX"], "top_logprobs": 2, "top_k": 20},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_all_that_nemo_skills_sends_is_accepted(balancer: RunningBalancer, extra: dict[str, Any]) -> None:
    assert balancer.ask("hello", **(NEMO_SKILLS_FIELDS | extra)).status_code == 200


def test_recorded_requests_of_nemo_skills_are_accepted(balancer: RunningBalancer) -> None:
    chosen = rows("requests.jsonl")
    assert len(chosen) >= 11
    for entry in chosen:
        response = httpx.post(balancer.url + entry["path"], json=entry["body"], timeout=60)
        assert response.status_code == 200, (entry["config"], response.text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_events": "denoise"}, "stream_events"),
        ({"tools": [{}]}, "tools"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"n": 0}, "n"),
    ],
)
def test_what_is_not_offered_is_a_400_that_names_the_field(
    balancer: RunningBalancer, fields: dict[str, Any], param: str
) -> None:
    response = balancer.ask("hello", **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "got" in error["message"]
    assert "valid" in error["message"]


def test_the_workers_refusal_keeps_its_message_and_names_the_field(balancer: RunningBalancer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        balancer.openai().chat.completions.create(model="tri", messages=[{"role": "user", "content": "refuse"}])
    assert "block_length: got 0; valid: 1 or more" in str(caught.value)
    assert caught.value.param == "block_length"


def test_a_bug_in_the_worker_is_a_500_without_details(balancer: RunningBalancer) -> None:
    response = balancer.ask("bug")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert "secret" not in (balancer.folder / "balancer.log").read_text()
    assert balancer.ask("hello").status_code == 200


def test_another_model_is_not_found(balancer: RunningBalancer) -> None:
    with pytest.raises(openai.NotFoundError, match="valid: tri"):
        balancer.openai().chat.completions.create(model="gpt", messages=HELLO)


def test_unknown_paths_and_methods_get_openai_errors(balancer: RunningBalancer) -> None:
    for response in (httpx.get(balancer.url + "/nothing"), httpx.get(balancer.url + "/v1/chat/completions")):
        assert response.status_code in (404, 405)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[1]", 400), (b"\xff\xfe", 400), (b'"' + b"x" * (17 * 2**20) + b'"', 413)]
)
def test_bad_bodies_are_refused(balancer: RunningBalancer, body: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(balancer.url + "/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == status
    assert "error" in response.json()


def test_request_id_comes_back(balancer: RunningBalancer) -> None:
    name = uuid.uuid4().hex
    by_header = httpx.post(
        balancer.url + "/v1/chat/completions", json={"messages": HELLO}, headers={"X-Request-Id": name}
    )
    assert by_header.json()["id"] == f"chatcmpl-{name}"
    assert balancer.ask("hello", request_id=name).json()["id"] == f"chatcmpl-{name}"


def test_request_log_joins_by_hash(balancer: RunningBalancer) -> None:
    name = uuid.uuid4().hex
    balancer.ask("find me", request_id=name, seed=3, mode="dlm")
    lines = [json.loads(line) for line in (balancer.folder / "requests.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["request_id"] == name)
    assert line["prompt_sha256"] == prompt_sha256([{"role": "user", "content": "find me"}])
    assert (line["mode"], line["seed"], line["usage"]["nfe"]) == ("dlm", 3, 2)
    assert "find me" not in json.dumps(line)


def test_totals_are_the_sums_of_usage(balancer: RunningBalancer) -> None:
    before = balancer.stats()["replies"]
    usages = [balancer.ask(f"word {index}").json()["usage"] for index in range(3)]
    totals = balancer.stats()["replies"]
    assert totals["requests"] - before["requests"] == 3
    assert totals["nfe"] - before["nfe"] == sum(usage["nfe"] for usage in usages)
    assert totals["forwards"]["decode"] - before["forwards"].get("decode", 0) == 6


def test_full_queue_is_429_and_health_answers_while_all_are_busy(balancer: RunningBalancer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    capacity = 2 * 5 + 3  # two workers with four slots and one more each, three may wait
    with ThreadPoolExecutor(capacity) as threads:
        held = [threads.submit(balancer.ask, f"wait:{gate}") for _ in range(capacity)]
        wait_for(lambda: balancer.stats()["balancer"]["waiting"] == 3)
        assert httpx.get(balancer.url + "/health").status_code == 200
        refused = balancer.ask("one more")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert not any(future.done() for future in held)
        gate.touch()
        assert {future.result().status_code for future in held} == {200}


def test_openais_client_comes_again_when_there_is_room(balancer: RunningBalancer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    capacity = 2 * 5 + 3
    before = balancer.stats()["balancer"]["rejected"]
    with ThreadPoolExecutor(capacity + 1) as threads:
        held = [threads.submit(balancer.ask, f"wait:{gate}") for _ in range(capacity)]
        wait_for(lambda: balancer.stats()["balancer"]["waiting"] == 3)
        client = balancer.openai().with_options(max_retries=50)
        late = threads.submit(client.chat.completions.create, model="tri", messages=HELLO)  # type: ignore[call-overload]
        wait_for(lambda: balancer.stats()["balancer"]["rejected"] > before)
        gate.touch()
        assert late.result().choices[0].message.content
        assert {future.result().status_code for future in held} == {200}


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\xfc\x03\r\n\r\n",
     b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
     b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_closed(balancer: RunningBalancer, sent: bytes) -> None:
    host, port = balancer.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=180) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.split(b"\r\n")[0].startswith((b"HTTP/1.1 400", b"HTTP/1.1 415", b"HTTP/1.1 431"))
    assert balancer.ask("hello").status_code == 200


def test_a_client_that_leaves_ends_its_generation(balancer: RunningBalancer, tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    body = json.dumps({"messages": [{"role": "user", "content": f"wait:{tmp_path / 'never'}"}], "request_id": name})
    host, port = balancer.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        wait_for(lambda: any(f"begin {name}" in line for line in balancer.begun()))
    wait_for(lambda: any(line.startswith(f"cancel {name}") for line in balancer.begun()))
    wait_for(lambda: balancer.stats()["balancer"]["running"] == 0)


def test_one_id_used_by_two_requests_at_once_harms_neither(balancer: RunningBalancer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(balancer.ask, f"wait:{gate} {word}", request_id="same") for word in ("a", "b")]
        wait_for(lambda: balancer.stats()["balancer"]["running"] == 2)
        threading.Timer(0, gate.touch).start()
        texts = [future.result().json()["choices"][0]["message"]["content"] for future in both]
    assert [text.split()[-1] for text in texts] == ["a", "b"]


def test_the_official_client_reads_a_stream(balancer: RunningBalancer) -> None:
    stream = balancer.openai().chat.completions.create(
        model="tri", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "ar hello world"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    texts = [
        chunk.choices[0].text for chunk in balancer.openai().completions.create(model="tri", prompt="a b", stream=True)
    ]
    assert "".join(texts) == "ar a b"
    with pytest.raises(openai.BadRequestError, match="block_length: got 0"):
        balancer.openai().chat.completions.create(
            model="tri", messages=HELLO, stream=True, extra_body={"block_length": 0}
        )


def test_an_error_in_the_middle_of_a_stream_reaches_the_official_client(balancer: RunningBalancer) -> None:
    stream = balancer.openai().chat.completions.create(
        model="tri", messages=[{"role": "user", "content": "one two refuse"}], stream=True
    )
    with pytest.raises(openai.APIError, match="block_length: got 0"):
        list(stream)
    assert balancer.stats()["balancer"]["running"] == 0
