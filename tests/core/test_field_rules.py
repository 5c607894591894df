"""The table of decode fields: complete, and whatever comes is read or refused with its name, never anything else."""

from __future__ import annotations

import random

import pytest
from trimode.core.errors import GenerationError
from trimode.core.field_rules import FIELD_RULES, check_prompt_size, read_field, show
from trimode.core.protocol import DECODE_DEFAULTS, DECODE_FIELDS

INTEGERS = (
    "max_new_tokens",
    "block_length",
    "top_k",
    "seed",
    "max_thinking_tokens",
    "end_think_token_id",
)
NUMBERS = ("threshold", "temperature", "top_p", "min_p", "repetition_penalty")
JUNK: list[object] = [
    *(-1, 0, 1, 3.0, -0.0, 2.5, 1e20, 1e308, 5e-324, 10**20, -(10**20), 10**400, -(10**5000), 2**63, 2**31),
    *(float("inf"), float("-inf"), float("nan"), True, False, "", "x", "\ud83d", "a" * 10**6, "ar", "equality"),
    *([], [[]], [""], ["\udc00"], ["a"] * 40, [1, 2], [10**400], [True], [-1], [0.5], list(range(5000))),
    *({}, {"a": 1}, {"\ud83d": []}, object()),
]


def refusal(name: str, value: object) -> str:
    with pytest.raises(GenerationError) as caught:
        read_field(name, value)
    assert caught.value.status == 400
    return caught.value.message


def test_every_decode_field_has_a_rule() -> None:
    assert FIELD_RULES.keys() == DECODE_FIELDS


def test_the_defaults_keep_the_rules() -> None:
    assert {name: read_field(name, value) for name, value in DECODE_DEFAULTS.items()} == DECODE_DEFAULTS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIELD_RULES))
def test_whatever_comes_is_read_or_refused_by_name(name: str) -> None:
    nested: object = []
    for _ in range(100_000):
        nested = [nested]
    for value in [*JUNK, nested]:
        try:
            read_field(name, value)
        except GenerationError as error:
            assert error.message.startswith(f"{name}: got ")
            assert "; valid: " in error.message
            assert len(error.message.encode()) < 300


@pytest.mark.parametrize("name", INTEGERS)
def test_a_float_without_a_fraction_is_an_integer(name: str) -> None:
    assert type(read_field(name, 3.0)) is int
    assert read_field(name, 3.0) == 3
    assert refusal(name, 3.5) == f"{name}: got 3.5; valid: an integer"


@pytest.mark.parametrize("name", [*INTEGERS, *NUMBERS])
def test_what_no_number_can_be_is_refused(name: str) -> None:
    for value in (1e20, 10**20, 10**400, 10**5000, float("inf"), float("nan"), True, "3"):
        refusal(name, value)


def test_half_a_surrogate_pair_is_refused_wherever_text_is_taken() -> None:
    assert refusal("stop", "\ud83d") == "stop: got half a surrogate pair; valid: Unicode text"
    assert refusal("stop", ["fine", "bad \udc00"]).startswith("stop: got half")
    assert "mode" in refusal("mode", "\ud83d")
    assert read_field("stop", "\U0001f600") == ("\U0001f600",)


def test_a_tiny_temperature_is_greedy() -> None:
    assert read_field("temperature", 1e-40) == 0.0
    assert read_field("temperature", 9e-5) == 0.0
    assert read_field("temperature", 1e-4) == 1e-4


def test_top_p_reaches_from_zero_to_one() -> None:
    assert (read_field("top_p", 0), read_field("top_p", 1)) == (0.0, 1.0)
    assert refusal("top_p", 1.01) == "top_p: got 1.01; valid: 0.0 to 1.0"


def test_a_bias_gives_token_ids_a_number_each() -> None:
    assert read_field("logit_bias", {"50256": -100, "7": 2.5}) == ((7, 2.5), (50256, -100.0))
    assert read_field("logit_bias", read_field("logit_bias", {"7": 1})) == ((7, 1.0),)  # read twice, as a worker does
    assert read_field("logit_bias", {}) == ()


@pytest.mark.parametrize(
    "value",
    [7, "x", [1], [[1, 2, 3]], {"x": 1}, {"-1": 1}, {"1.5": 1}, {"1": 101}, {"1": "2"}, {"1": None}, {"1": True},
     {"²": 1}, {"9" * 30: 1}, {"1": 1, "01": 2}, {str(token): 1 for token in range(1025)}],
)  # fmt: skip
def test_a_bias_that_is_none_is_refused(value: object) -> None:
    assert refusal("logit_bias", value).startswith("logit_bias")


def test_a_prompt_is_measured_by_its_characters() -> None:
    check_prompt_size("prompt", 16 * 512, 512)
    with pytest.raises(GenerationError, match="prompt: got 8193 characters; valid: at most 8192"):
        check_prompt_size("prompt", 16 * 512 + 1, 512)


def test_anything_can_be_shown() -> None:
    chance = random.Random(0)
    shown = [show(chance.choice(JUNK)) for _ in range(200)]
    assert all(len(text.encode()) < 300 for text in shown)
    assert show(10**400) == "an integer of about 401 digits"
    assert show("\ud83d") == '"\\ud83d"'
