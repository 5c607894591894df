"""Bad values of request fields: each is refused with status 400, and the worker answers the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from trimode.core.errors import GenerationError
from trimode.core.protocol import DECODE_FIELDS
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import load_cases
from trimode.tests.workers.test_text import DEMO
from trimode.workers.params import parse_params
from trimode.workers.worker import Worker

CASE = load_cases()[0]
HALF = "a\ud83d"
MASK = 100
"""Id of the demo model's mask token."""
NUMBERS = ("top_k", "temperature", "top_p", "min_p", "threshold", "repetition_penalty", "seed", "max_new_tokens",
           "block_length", "max_thinking_tokens", "end_think_token_id")  # fmt: skip
FAR = [1e20, -1e20, 10**20, 10**400, -(10**400), 10**5000, float("nan"), float("inf"), -float("inf")]
ASK: dict[str, object] = {"mode": "ar", "prompt": "Tom has 3 apples.", "max_new_tokens": 2}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(micro_settings(model=str(DEMO), lora=None))
    yield worker
    worker.close()


def refusal(worker: Worker, fields: dict[str, object]) -> str:
    """The message of a request that is refused with status 400. It can be written, and the next request is answered."""
    with pytest.raises(GenerationError) as caught:
        asyncio.run(worker.generate(fields))
    assert caught.value.status == 400, caught.value.message
    assert len(caught.value.message.encode()) < 2000
    assert len(asyncio.run(worker.generate(ASK)).token_ids) == 2
    return caught.value.message


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", FAR, ids=lambda value: f"{value:.0e}" if isinstance(value, float) else "integer")
def test_numbers_out_of_range_are_refused(worker: Worker, name: str, value: float) -> None:
    message = refusal(worker, {**ASK, "temperature": 1.0, "max_thinking_tokens": 1, name: value})
    assert message.startswith(f"{name}: got ")


@pytest.mark.parametrize(
    "changes",
    [
        {"stop": HALF},
        {"stop": ["fine", HALF]},
        {"prompt": HALF},
        {"prompt": None, "messages": [{"role": "user", "content": HALF}]},
        {"prompt": None, "messages": [{"role": HALF, "content": "x"}]},
        {"mode": HALF},
        {"acceptance": HALF},
        {HALF: 1},
        {"request_id": HALF},
        {"request_id": 10**5000},
        {"request_id": "x" * 10_000},
        {"request_id": ["x"]},
        {"stop_token_ids": [10**400]},
        {"stop_token_ids": [5000]},
        {"stop_token_ids": [0] * 10_000},
        {"stop_token_ids": "12"},
        {"prompt": None, "prompt_ids": [10**5000]},
        {"prompt": None, "prompt_ids": [float("nan")]},
        {"prompt": None, "prompt_ids": []},
        {"stop": ["x"] * 33},
        {"stop": "x" * 100_000},
        {"end_think_token_id": 5000},
        dict.fromkeys(map(str, range(20_000)), 1),
    ],
    ids=lambda changes: next(iter(changes)).encode("ascii", "backslashreplace").decode(),
)
def test_texts_ids_and_names_that_no_decoder_takes_are_refused(worker: Worker, changes: dict[str, object]) -> None:
    refusal(worker, ASK | changes)


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_the_mask_token_does_not_end_thinking(worker: Worker, mode: str) -> None:
    fields = {"mode": mode, "max_new_tokens": 6, "max_thinking_tokens": 2, "ignore_eos": True}
    message = refusal(worker, ASK | fields | {"end_think_token_id": MASK})
    assert message.startswith(f"end_think_token_id: got {MASK}, the mask token; valid: ")
    assert MASK not in asyncio.run(worker.generate(ASK | fields | {"end_think_token_id": MASK - 1})).token_ids


@pytest.mark.parametrize("name", sorted(DECODE_FIELDS))
@pytest.mark.parametrize("value", [{"a": 1}, [[]], b"x", {1}, object()], ids=lambda value: type(value).__name__)
def test_values_of_no_valid_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(GenerationError, match=f"{name}: got "):
        parse_params({"mode": "ar", name: value})


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-5, -0.0])
def test_a_temperature_near_zero_is_greedy_in_every_mode(worker: Worker, mode: str, temperature: float) -> None:
    fields = {**ASK, "mode": mode, "max_new_tokens": 12, "ignore_eos": True}
    greedy = asyncio.run(worker.generate(fields))
    assert asyncio.run(worker.generate(fields | {"temperature": temperature})).token_ids == greedy.token_ids


@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 100.0])
@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_the_lowest_and_highest_temperatures_give_tokens(worker: Worker, mode: str, temperature: float) -> None:
    fields = {**ASK, "mode": mode, "max_new_tokens": 12, "ignore_eos": True, "temperature": temperature}
    tokens = asyncio.run(worker.generate(fields)).token_ids
    assert len(tokens) == 12
    assert set(tokens) != {4999}


def test_whole_numbers_may_be_written_as_floats_in_every_integer_field() -> None:
    names = ("max_new_tokens", "block_length", "top_k", "seed", "max_thinking_tokens", "end_think_token_id")
    params = parse_params({"mode": "dlm", "stop_token_ids": [3.0], **dict.fromkeys(names, 3.0)})
    values = [getattr(params, name) for name in names]
    assert [*values, *params.stop_token_ids] == [3] * 7
    assert {type(value) for value in (*values, *params.stop_token_ids)} == {int}
