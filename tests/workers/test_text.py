"""Text in and out of ids with the demo model's tokenizer: prompts, thinking, and where a stop string ends an output."""

from __future__ import annotations

from pathlib import Path

import pytest
from trimode.core.errors import GenerationError
from trimode.core.protocol import Generation
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO, load_cases
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.params import parse_params
from trimode.workers.runtime import Runtime
from trimode.workers.text import PromptLimits, Text

DEMO = Path(__file__).parents[2] / "assets" / "demo_model"
ANSWER = "Tom has 3 apples. So he has 12 in all.\n\nQuestion: é日本 next"
LIMITS = PromptLimits(vocab_size=5000, max_model_len=100)
CASE = next(case for case in load_cases() if case.name == "0-ar")


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(DEMO)


def stopped_at(text: Text, stop: str, step: int) -> int | None:
    """Tokens kept when the output grows by `step` tokens at a time, as blocks do."""
    find = text.stop_finder([stop])
    assert find is not None
    ids = text.encode(ANSWER)
    searched = 0
    for end in range(step, len(ids) + step, step):
        if (keep := find(ids[:end], searched)) is not None:
            return keep
        searched = min(end, len(ids))
    return None


@pytest.mark.parametrize("step", [1, 3, 8, 100])
@pytest.mark.parametrize("stop", ["Tom", ".", "12 in", "\n\n", "\n\nQuestion:", "本", ANSWER])
def test_a_stop_string_ends_at_the_token_that_completes_it(text: Text, stop: str, step: int) -> None:
    ids = text.encode(ANSWER)
    keep = stopped_at(text, stop, step)
    assert keep is not None
    assert stop in (text.decode(ids[:keep]) or "")
    assert stop not in (text.decode(ids[: keep - 1]) or "")


def test_a_stop_string_that_does_not_come_ends_nothing(text: Text) -> None:
    assert stopped_at(text, "pears", 3) is None
    assert text.stop_finder([]) is None


def test_text_is_cut_before_the_first_stop_string(text: Text) -> None:
    assert text.cut_at_stop(ANSWER, ["\n\nQuestion:", " in all"]) == "Tom has 3 apples. So he has 12"
    assert text.cut_at_stop(ANSWER, ["pears"]) == ANSWER


def stop_after(token: int, second: int) -> object:
    """A finder over ids: ends behind the first `token` that `second` follows."""

    def find(output: list[int], searched: int) -> int | None:
        for end in range(max(searched, 1), len(output)):
            if (output[end - 1], output[end]) == (token, second):
                return end + 1
        return None

    return find


def stopped(engine: Engine, mode: str, block_length: int) -> Sequence:
    params = parse_params({"mode": mode, "max_new_tokens": 90, "block_length": block_length, "threshold": 0.0})
    prompt = CASE.fields["prompt_ids"]
    assert isinstance(prompt, list)
    sequence = engine.add(mode, prompt, params, stop_after(21, 18))  # type: ignore[arg-type]
    while engine.busy:
        engine.step()
    return sequence


@pytest.mark.parametrize("block_length", [4, 7, 16])
def test_a_stop_inside_a_block_ends_the_output_there(micro: Runtime, block_length: int) -> None:
    ar, spec = (stopped(micro.engine, mode, block_length) for mode in ("ar", "linear_spec"))
    assert ar.state.tokens()[-2:] == [21, 18]
    assert ar.state.tokens() == CASE.tokens[: len(ar.state.tokens())]
    assert spec.state.tokens() == ar.state.tokens()
    assert {ar.state.finish_reason, spec.state.finish_reason} == {"stop"}


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_an_answer_ends_before_its_stop_string(mode: str) -> None:
    runtime = Runtime(micro_settings(model=str(DEMO), lora=None))
    messages = [{"role": "user", "content": "Tom has 3 apples and gets 4 more. How many apples does Tom have?"}]
    fields = {"messages": messages, "mode": mode, "max_new_tokens": 40, "ignore_eos": True}

    def answer(**more: object) -> Generation:
        sequence = runtime.submit("request", fields | more)
        while runtime.engine.busy:
            runtime.engine.step()
        return runtime.generation(sequence)

    whole = answer().text
    assert whole
    stop = whole[len(whole) // 2 :][:3]
    cut = answer(stop=["never", stop])
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    assert stop in (runtime.text.decode(cut.token_ids) or "")


def test_chat_turns_are_rendered_with_and_without_thinking(text: Text) -> None:
    messages = [{"role": "user", "content": "hi"}]
    plain, thinking = text.render(messages, False), text.render(messages, True)
    assert plain.endswith("<think></think>")
    assert thinking.endswith("<think>\n")
    assert text.prompt_ids({"messages": messages}, LIMITS) == text.encode(plain)
    assert text.prompt_ids({"messages": messages, "enable_thinking": True}, LIMITS) == text.encode(thinking)
    assert text.decode([text.end_think_token_id() or 0]) == "</think>"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "prompt: got none; valid: one of prompt_ids, messages, prompt"),
        ({"prompt": "a", "prompt_ids": [1]}, "prompt: got prompt_ids and prompt"),
        ({"prompt": 3}, "prompt: got 3; valid: a string"),
        ({"prompt": ""}, "prompt: empty; valid: at least one token"),
        ({"messages": []}, "messages: valid: a non-empty list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 'role "robot"'),
        ({"messages": [{"role": "user", "content": None}]}, "a string content"),
        ({"prompt_ids": "ab"}, 'prompt_ids: got "ab"'),
        ({"prompt_ids": [1, 7000]}, "prompt_ids: got 7000; valid: integers from 0 to 4999"),
    ],
)
def test_prompts_that_are_none_are_refused(text: Text, fields: dict[str, object], words: str) -> None:
    with pytest.raises(GenerationError) as caught:
        text.prompt_ids(fields, LIMITS)
    assert words in caught.value.message


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(GenerationError, match="no tokenizer"):
        Text(MICRO).stop_finder(["x"])
