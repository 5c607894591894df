"""litellm against the server at argv[1]."""

import asyncio
import sys

import litellm
from question import ANSWER, MODEL, QUESTION

litellm.suppress_debug_info = True
to_server = {"api_base": sys.argv[1], "api_key": "none", "temperature": 0}
chat = {**to_server, "model": f"openai/{MODEL}", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}

reply = litellm.completion(**chat)
assert reply.choices[0].message.content == ANSWER
print(f"completion: {reply.choices[0].message.content} ({reply.usage.total_tokens} tokens)")
assert "".join(c.choices[0].delta.content or "" for c in litellm.completion(**chat, stream=True)) == ANSWER
print("stream: the same")
dlm = asyncio.run(litellm.acompletion(**chat, extra_body={"mode": "dlm"}))
assert dlm.choices[0].message.content == ANSWER
print("async, mode dlm: the same")
rated = litellm.completion(**chat, logprobs=True, top_logprobs=2).choices[0].logprobs.content[0]
print(f"logprobs: {rated.token!r}, {len(rated.top_logprobs)} alternatives")
text = litellm.text_completion(
    **to_server, model=f"text-completion-openai/{MODEL}", prompt=["2+3=", "4+4="], max_tokens=1, echo=True, logprobs=1
)
assert [choice.text[:4] for choice in text.choices] == ["2+3=", "4+4="]
print("text completion: 2 prompts with echo")
for fields, expected in (
    ({"max_tokens": 99999}, litellm.exceptions.ContextWindowExceededError),
    ({"response_format": {"type": "json_object"}}, litellm.exceptions.BadRequestError),
):
    try:
        litellm.completion(**{**chat, **fields})
    except expected as error:
        print(f"{type(error).__name__}: {str(error)[-110:]}")
    else:
        raise AssertionError(fields)
