"""Settings of a chat and the request fields they become."""

from __future__ import annotations

import pytest
from trimode.chat.local import local_modes
from trimode.chat.settings import Settings, checked
from trimode.core.errors import ConfigError

MODES = local_modes()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("ar", {"mode": "ar", "lora": False, "block_length": 1}),
        ("dlm", {"mode": "dlm", "lora": False, "block_length": 32, "threshold": 0.9}),
        ("linear_spec", {"mode": "linear_spec", "lora": False, "block_length": 32, "threshold": 0.0}),
        ("linear_spec_lora", {"mode": "linear_spec", "lora": True, "block_length": 32, "threshold": 0.0}),
    ],
)
def test_modes_have_the_reference_s_defaults(mode: str, expected: dict[str, object]) -> None:
    assert Settings(mode=mode).mode_fields() == {"enable_thinking": False} | expected


def test_a_mode_of_others_keeps_its_own_defaults() -> None:
    assert Settings(mode="tree").mode_fields() == {"enable_thinking": False, "mode": "tree", "lora": False}


def test_block_and_threshold_do_not_reach_ar() -> None:
    fields = Settings(mode="ar", block_length=8, threshold=0.5).mode_fields()
    assert fields["block_length"] == 1
    assert "threshold" not in fields


def test_a_thinking_budget_goes_along_with_thinking() -> None:
    assert "max_thinking_tokens" not in Settings(mode="ar", max_thinking_tokens=9).mode_fields()
    assert Settings(mode="ar", thinking=True, max_thinking_tokens=9).mode_fields()["max_thinking_tokens"] == 9


def test_a_server_s_mode_is_its_own() -> None:
    assert Settings().mode_fields() == {"enable_thinking": False}
    given = Settings(block_length=8, threshold=0.5).mode_fields()
    assert given == {"enable_thinking": False, "block_length": 8, "threshold": 0.5}


def test_values_are_read_from_text() -> None:
    settings = Settings(mode="ar")
    settings = settings.with_value("mode", "dlm", MODES).with_value("block-length", "8", MODES)
    settings = settings.with_value("threshold", "0.5", MODES).with_value("thinking", "on", MODES)
    assert (settings.mode, settings.block_length, settings.threshold, settings.thinking) == ("dlm", 8, 0.5, True)
    assert settings.with_value("threshold", "none", MODES).threshold is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("mode", "x", "valid: ar, dlm, linear_spec"),
        ("color", "red", "valid: mode, max_new_tokens"),
        ("max_new_tokens", "0", "from 1"),
        ("max_new_tokens", "none", "a whole number"),
        ("block_length", "2.5", "a whole number"),
        ("threshold", "2", "from 0 up to 1"),
        ("temperature", "hot", "a number"),
        ("temperature", "nan", "0 \\(greedy\\) or more"),
        ("top_p", "0", "above 0"),
        ("thinking", "maybe", "on or off"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings(mode="ar").with_value(name, text, MODES)


def test_flags_are_held_to_the_same_rules() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        checked(Settings(mode="ar", temperature=-1))
