"""Request fields: every refusal names the field and what is valid; random garbage never does more than be refused."""

from __future__ import annotations

import random

import pytest
from trimode.core.errors import GenerationError
from trimode.core.protocol import DECODE_DEFAULTS, DECODE_FIELDS, Mode
from trimode.pipeline.client.answer import mode_fields
from trimode.tests.fakes.specs import decode_spec
from trimode.workers.params import KNOWN_FIELDS, parse_params
from trimode.workers.runtime import Runtime


@pytest.mark.parametrize(
    ("mode", "block_length", "threshold"), [("ar", 1, None), ("dlm", 8, 0.9), ("linear_spec", 32, 0.0)]
)
def test_defaults_are_the_reference_s(mode: str, block_length: int, threshold: float | None) -> None:
    params = parse_params({"mode": mode})
    assert (params.block_length, params.threshold) == (block_length, threshold)


def test_null_threshold_means_none_in_dlm_and_zero_in_linear_spec() -> None:
    assert parse_params({"mode": "dlm", "threshold": None}).threshold is None
    assert parse_params({"mode": "linear_spec", "threshold": None}).threshold == 0.0


@pytest.mark.parametrize("top_k", [-1, 0, None])
def test_top_k_of_minus_one_is_off(top_k: int | None) -> None:
    assert parse_params({"mode": "ar", "top_k": top_k}).top_k == 0


@pytest.mark.parametrize("mode", ["ar", "dlm", "linear_spec"])
def test_what_the_pipeline_sends_is_known(mode: str) -> None:
    decode = decode_spec(mode=Mode(mode), enable_thinking=True, max_thinking_tokens=7, eos_early_stop=False)
    fields = mode_fields(decode)
    assert {"max_thinking_tokens", "ignore_eos"} < fields.keys() <= DECODE_FIELDS
    assert parse_params(fields).max_thinking_tokens == 7


def test_an_absent_field_has_the_default_of_decode_params() -> None:
    params = parse_params({"mode": "ar"})
    assert {name: getattr(params, name) for name in DECODE_DEFAULTS} == DECODE_DEFAULTS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "fast"}, 'mode: got "fast"; valid: ar, dlm, linear_spec'),
        ({}, "mode: got null"),
        ({"mode": "dlm", "block_length": 0}, "block_length: got 0; valid: 1 to 1024"),
        ({"mode": "dlm", "block_length": 2.5}, "block_length: got 2.5; valid: an integer"),
        ({"mode": "dlm", "threshold": 1.5}, "threshold: got 1.5; valid: 0.0 to 1.0"),
        ({"mode": "ar", "temperature": "hot"}, 'temperature: got "hot"; valid: a number'),
        ({"mode": "ar", "temperature": float("nan")}, "temperature: got NaN; valid: a number"),
        ({"mode": "ar", "lora": 1}, "lora: got 1; valid: true, false"),
        ({"mode": "ar", "enable_thinking": "yes"}, 'enable_thinking: got "yes"; valid: true, false'),
        ({"mode": "ar", "stop": [""]}, "stop: got"),
        ({"mode": "ar", "blok_length": 4}, 'unknown field "blok_length"; valid: '),
        ({"mode": "ar", "max_new_tokens": 0}, "max_new_tokens: got 0; valid: 1 to 2147483647"),
    ],
)
def test_refusals_name_field_value_and_valid(fields: dict[str, object], message: str) -> None:
    with pytest.raises(GenerationError) as caught:
        parse_params(fields)
    assert message in caught.value.message
    assert caught.value.status == 400


def test_a_thousand_malformed_requests_are_each_refused(micro: Runtime) -> None:
    chance = random.Random(0)
    junk = [None, -1, 0, 1e308, float("inf"), "x", "", [], {}, [[]], True, 2**70, -0.5, "ar", [1, 2, 99999], {"a": 1}]
    refused = 0
    for _ in range(1000):
        fields = {name: chance.choice(junk) for name in chance.sample(sorted(KNOWN_FIELDS), 6)}
        try:
            sequence = micro.submit("x", {"mode": chance.choice(["ar", "dlm", "nope"]), **fields})
        except GenerationError as error:
            assert error.message
            refused += 1
        else:
            micro.engine.cancel(sequence)
    while micro.engine.busy:
        micro.engine.step()
    assert refused > 900
