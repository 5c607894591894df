"""The official openai package against the server at argv[1]."""

import asyncio
import sys

import openai
from question import ANSWER, MODEL, QUESTION

base_url = sys.argv[1]
client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)
chat = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64, "temperature": 0}

for mode in ("ar", "dlm", "linear_spec"):
    reply = client.chat.completions.create(**chat, extra_body={"mode": mode})
    assert reply.choices[0].message.content == ANSWER
    print(f"chat, {mode}: {reply.choices[0].message.content} ({reply.usage.model_extra['nfe']} forwards)")

with client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}) as stream:
    chunks = list(stream)
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
print(f"stream: {len(chunks)} chunks, {chunks[-1].usage.completion_tokens} tokens")


async def ask_together() -> list[str]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as several:
        replies = await asyncio.gather(*(several.chat.completions.create(**chat) for _ in range(4)))
        parts = [part async for part in await several.completions.create(model=MODEL, prompt="2+", stream=True)]
    assert parts
    return [reply.choices[0].message.content for reply in replies]


assert asyncio.run(ask_together()) == [ANSWER] * 4
print("async: 4 answers at once, and a stream")

rated = client.chat.completions.create(**chat, logprobs=True, top_logprobs=3, n=2, seed=1)
first = rated.choices[1].logprobs.content[0]
assert (first.token, len(first.top_logprobs), bytes(first.bytes)) == ("First", 3, b"First")
print(f"logprobs: {first.token!r} {first.logprob:.2g}, then {first.top_logprobs[1].token!r}")

echo = client.completions.create(model=MODEL, prompt=["2+3=", [20, 30]], max_tokens=0, echo=True, logprobs=1)
assert echo.choices[0].text == "2+3="
assert echo.choices[0].logprobs.text_offset == [0, 1, 2, 3]
assert echo.choices[0].logprobs.token_logprobs[0] is None
print(f"echo: {echo.choices[0].logprobs.tokens}, {len(echo.choices)} prompts")

biased = client.chat.completions.create(**chat, presence_penalty=2, frequency_penalty=2, logit_bias={"515": -100})
assert biased.choices[0].message.content != ANSWER
print("penalties and bias: another answer")

assert client.models.retrieve(MODEL).id == client.models.list().data[0].id == MODEL

for fields, error, field in (
    ({"max_tokens": 99999}, openai.BadRequestError, "messages"),
    ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
    ({"model": "gpt"}, openai.NotFoundError, "model"),
):
    try:
        client.chat.completions.create(**{**chat, **fields})
    except error as caught:
        assert caught.param == field
        print(f"{type(caught).__name__}, {caught.param}, {caught.code}: {caught.body['message'][:90]}")
    else:
        raise AssertionError(fields)
