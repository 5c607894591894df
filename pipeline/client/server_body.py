"""The body of a request to a running server of any kind.

The rule: only fields of OpenAI's chat completions, and `chat_template_kwargs`, by which SGLang, vLLM and llama.cpp
switch thinking. A mode's fields are not sent. `ServerSpec.fields` adds others and leaves standard ones out.
"""

from __future__ import annotations

from trimode.pipeline.spec import DecodeSpec, ServerSpec

SEED_BITS = 31
"""Some servers read seeds as 32-bit integers with sign."""


def server_body(server: ServerSpec, decode: DecodeSpec, model: str, prompt: str, seed: int) -> dict[str, object]:
    """Returns the JSON body of one sample."""
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": decode.max_new_tokens,
        "temperature": decode.temperature,
        "top_p": decode.top_p,
        "seed": seed % 2**SEED_BITS,
        "chat_template_kwargs": {"enable_thinking": decode.enable_thinking},
    }
    return {name: value for name, value in (body | server.fields).items() if value is not None}
