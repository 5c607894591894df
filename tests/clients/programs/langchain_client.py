"""langchain-openai against the server at argv[1]."""

import asyncio
import sys

from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI
from question import ANSWER, MODEL, QUESTION

to_server = {"model": MODEL, "base_url": sys.argv[1], "api_key": "none", "temperature": 0, "max_retries": 0}
chat = ChatOpenAI(**to_server, max_tokens=64)

message = chat.invoke(QUESTION)
assert message.content == ANSWER
print(f"invoke: {message.content} ({message.usage_metadata['total_tokens']} tokens)")
assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == ANSWER
print("stream: the same")
assert [reply.content for reply in chat.batch([QUESTION] * 3)] == [ANSWER] * 3
assert asyncio.run(chat.ainvoke(QUESTION)).content == ANSWER
print("batch, async: the same")
assert chat.bind(extra_body={"mode": "linear_spec"}).invoke(QUESTION).content == ANSWER
print("mode linear_spec: the same")
rated = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION).response_metadata["logprobs"]["content"]
print(f"logprobs: {rated[0]['token']!r}, {len(rated[0]['top_logprobs'])} alternatives")
texts = OpenAI(**to_server, max_tokens=4).generate(["2+3=", "4+4="]).generations
print(f"text completions: {len(texts)} prompts in one request")
try:
    ChatOpenAI(**to_server, max_tokens=99999).invoke(QUESTION)
except ContextOverflowError as error:
    print(f"{type(error).__name__}: {str(error)[:90]}")
