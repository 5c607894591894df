"""The embedded client on the wire: its body, its retries and what becomes of a refusal."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from trimode.pipeline.client.answer import Answer
from trimode.pipeline.client.chat import ChatClient, RetryPolicy, most_at_once, request_body
from trimode.pipeline.spec import DecodeSpec
from trimode.tests.fakes.balancer import Body, FakeBalancer, Reply, answer, error
from trimode.tests.fakes.specs import client_spec, decode_spec
from trimode.tests.goldens import rows

FAST = RetryPolicy(attempts=3, timeouts=2, first_delay_s=0.0)


def ask(
    fake: FakeBalancer,
    prompts: list[str],
    decode: DecodeSpec | None = None,
    slots: int | None = None,
    **client: object,
) -> list[Answer]:
    async def run() -> list[Answer]:
        async with ChatClient(fake.url, "fake", decode or decode_spec(), client_spec(**client), FAST, slots) as chat:
            return await asyncio.gather(*(chat.ask(f"name-{prompt}", prompt, 0) for prompt in prompts))

    return asyncio.run(run())


def test_body_has_the_fields_and_order_of_nemo_skills_vllm_client() -> None:
    golden = {line["config"]: line["body"] for line in rows("requests.jsonl")}
    ours = request_body(decode_spec(max_new_tokens=512), "tri", "", 0)
    theirs = golden["vllm_chat_tokens_extra"]
    shared = [key for key in theirs if key not in ("steps", "flag", "mode", "threshold")]
    assert list(ours)[: len(shared)] == shared
    assert {key: ours[key] for key in shared if key != "messages"} == {
        key: theirs[key] for key in shared if key != "messages"
    }
    assert ours["chat_template_kwargs"] == golden["vllm_chat_template_kwargs"]["chat_template_kwargs"]


def test_body_is_one_user_message_with_flat_mode_fields() -> None:
    body = request_body(decode_spec(), "m", "hello", 3)
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert body["seed"] == 3
    assert {key: body[key] for key in ("mode", "block_length", "threshold", "lora")} == {
        "mode": "linear_spec",
        "block_length": 32,
        "threshold": 0.0,
        "lora": False,
    }
    assert "ignore_eos" not in body
    assert "max_thinking_tokens" not in body


def test_no_threshold_is_sent_as_null() -> None:
    assert '"threshold": null' in json.dumps(request_body(decode_spec(threshold=None), "m", "p", 0))


def test_thinking_budget_goes_out_only_with_thinking() -> None:
    on = request_body(decode_spec(enable_thinking=True, max_thinking_tokens=60), "m", "p", 0)
    off = request_body(decode_spec(enable_thinking=False, max_thinking_tokens=60), "m", "p", 0)
    assert on["max_thinking_tokens"] == 60
    assert "max_thinking_tokens" not in off
    assert on["chat_template_kwargs"] == {"enable_thinking": True}


def test_thoughts_stay_in_the_text() -> None:
    on, off = (request_body(decode_spec(enable_thinking=thinking), "m", "p", 0) for thinking in (True, False))
    assert on["separate_reasoning"] is False
    assert "separate_reasoning" not in off


def test_ignore_eos_is_sent_when_early_stop_is_off() -> None:
    assert request_body(decode_spec(eos_early_stop=False), "m", "p", 0)["ignore_eos"] is True


def test_answer_carries_the_ledger() -> None:
    with FakeBalancer() as fake:
        (got,) = ask(fake, ["say 7"])
    usage = answer(fake.bodies[0])[1]["usage"]
    assert isinstance(usage, dict)
    assert got.error is None
    assert got.cost.forwards_saved == usage["forwards_saved"] == 1
    assert (got.cost.nfe, got.cost.completion_tokens, got.cost.forwards) == (
        usage["nfe"],
        usage["completion_tokens"],
        usage["forwards"],
    )
    assert got.request_id.startswith("chatcmpl-")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
def test_passing_trouble_is_retried(status: int) -> None:
    def reply(body: Body, attempt: int) -> Reply:
        return answer(body) if attempt == 3 else error(status, "come back")

    with FakeBalancer(reply) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error is None
    assert fake.attempts["say 7"] == 3


def test_lasting_trouble_ends_after_bounded_attempts() -> None:
    with FakeBalancer(lambda _body, _attempt: error(503, "no worker")) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error == "HTTP 503: no worker"
    assert got.error_kind == "infrastructure"
    assert got.finish_reason == "error"
    assert fake.attempts["say 7"] == FAST.attempts


def test_a_server_that_says_so_is_not_asked_again() -> None:
    with FakeBalancer(lambda _body, _attempt: error(500, "it killed them"), {"x-should-retry": "false"}) as fake:
        (got,) = ask(fake, ["say 7"])
    assert (got.error, got.error_kind) == ("HTTP 500: it killed them", "infrastructure")
    assert fake.attempts["say 7"] == 1


def test_refusal_is_recorded_at_once() -> None:
    with FakeBalancer(lambda _body, _attempt: error(400, "too long")) as fake:
        (got,) = ask(fake, ["say 7"])
    assert (got.error, got.error_kind, got.text) == ("HTTP 400: too long", "request", "")
    assert fake.attempts["say 7"] == 1


def test_nobody_listening_is_infrastructure() -> None:
    with FakeBalancer() as fake:
        gone = fake
    (got,) = ask(gone, ["say 7"])
    assert got.error_kind == "infrastructure"


def test_timeout_is_tried_once_more() -> None:
    release = threading.Event()

    def reply(body: Body, _attempt: int) -> Reply:
        release.wait(10)
        return answer(body)

    with FakeBalancer(reply) as fake:
        (got,) = ask(fake, ["say 7"], request_timeout_s=0.5)
        release.set()
    assert got.error == "no answer within the request timeout (0.5 s, client.request_timeout_s)"
    assert fake.attempts["say 7"] == 2


@pytest.mark.slow
def test_the_request_timeout_does_not_count_the_queue() -> None:
    slots = threading.Semaphore(2)

    def reply(body: Body, _attempt: int) -> Reply:
        with slots:  # the server decodes two requests at a time; the others wait in its queue
            time.sleep(0.25)
        return answer(body)

    prompts = [f"say {number}" for number in range(24)]
    with FakeBalancer(reply) as fake:
        got = ask(fake, prompts, slots=2, max_concurrent_requests=24, request_timeout_s=1.5)
    assert [one.error for one in got] == [None] * 24
    assert set(fake.attempts.values()) == {1}
    assert fake.most_at_once <= 4


def test_no_more_requests_are_under_way_than_the_client_may_send() -> None:
    assert most_at_once(client_spec(max_concurrent_requests=3), slots=8) == 3
    assert most_at_once(client_spec(max_concurrent_requests=512), slots=8) == 16


def test_reply_that_is_no_completion_is_an_error() -> None:
    with FakeBalancer(lambda _body, _attempt: (200, {"hello": 1})) as fake:
        (got,) = ask(fake, ["say 7"])
    assert got.error is not None
    assert got.error.startswith("not a chat completion")


def test_back_off_doubles_up_to_its_ceiling() -> None:
    policy = RetryPolicy(first_delay_s=1.0, longest_delay_s=5.0)
    for failures, ceiling in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (60, 5.0)]:
        assert ceiling / 2 <= policy.delay_s(failures) <= ceiling
