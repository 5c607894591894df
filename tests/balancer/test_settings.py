"""The command line of the balancer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from trimode.balancer.settings import is_loopback, parse_settings
from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode


def test_served_name_is_the_folders() -> None:
    assert parse_settings(["--model", "/models/tri-8b"]).worker.served_model_name == "tri-8b"


def test_paths_are_absolute_and_hub_ids_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_settings(["--model", "model"]).worker.model == str(tmp_path / "model")
    assert parse_settings(["--model", "org/model"]).worker.model == "org/model"


def test_a_quarter_more_than_the_slots_is_in_flight() -> None:
    assert parse_settings(["--model", "m", "--max-num-seqs", "8"]).in_flight_limit == 10
    assert parse_settings(["--model", "m", "--max-num-seqs", "1"]).in_flight_limit == 2
    assert parse_settings(["--model", "m", "--max-in-flight", "3"]).in_flight_limit == 3


def test_default_mode() -> None:
    assert parse_settings(["--model", "m"]).default_mode is Mode.ar
    assert parse_settings(["--model", "m", "--default-mode", "dlm"]).default_mode is Mode.dlm
    assert parse_settings(["--model", "m", "--mode", "linear_spec"]).default_mode is Mode.linear_spec


def test_weights_are_quantised_and_batches_invariant_only_if_asked_for() -> None:
    worker = parse_settings(["--model", "m"]).worker
    assert (worker.quantization, worker.quantize_head, worker.batch_invariant) == ("none", False, False)
    flags = ["--quantization", "w4a16", "--quantize-head", "--batch-invariant"]
    worker = parse_settings(["--model", "m", *flags]).worker
    assert (worker.quantization, worker.quantize_head, worker.batch_invariant) == ("w4a16", True, True)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--hang-timeout", "-1.0"),
        ("--start-timeout", "-1.0"),
        ("--start-timeout", "inf"),
        ("--grace", "nan"),
        ("--num-workers", "0"),
        ("--max-num-seqs", "-1"),
        ("--max-queue", "0"),
        ("--port", "70000"),
        ("--max-in-flight", "-2"),
    ],
)
def test_bad_numbers_name_the_flag(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}: got {value}; valid"):
        parse_settings(["--model", "m", flag, value])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "m", "--prot", "1"], "unrecognized arguments: --prot 1; all flags: --help"),
        (["--model", "m", "--port", "abc"], "argument --port: invalid int value: 'abc'; all flags: --help"),
        ([], "the following arguments are required: --model; all flags: --help"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}$"):
        parse_settings(flags)


def test_beyond_loopback_needs_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--host"):
        parse_settings(["--model", "m", "--host", "0.0.0.0"])
    key = tmp_path / "key"
    key.write_text("abc\n")
    settings = parse_settings(["--model", "m", "--host", "0.0.0.0", "--api-key-file", str(key)])
    assert settings.api_key == "abc"
    assert "abc" not in repr(settings)


def test_an_empty_or_missing_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        with pytest.raises(ConfigError, match="--api-key-file"):
            parse_settings(["--model", "m", "--api-key-file", str(tmp_path / name)])


def test_the_key_may_come_from_the_environment_and_a_file_comes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMODE_API_KEY", " from-the-environment\n")
    assert parse_settings(["--model", "m", "--host", "0.0.0.0"]).api_key == "from-the-environment"
    (tmp_path / "key").write_text("from-the-file")
    assert parse_settings(["--model", "m", "--api-key-file", str(tmp_path / "key")]).api_key == "from-the-file"
    monkeypatch.setenv("TRIMODE_API_KEY", "")
    assert parse_settings(["--model", "m"]).api_key is None


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--api-key-file: .* no header can carry") as raised:
        parse_settings(["--model", "m", "--api-key-file", str(tmp_path / "key")])
    assert key not in str(raised.value)
    if "\x00" not in key:
        monkeypatch.setenv("TRIMODE_API_KEY", key)
        with pytest.raises(ConfigError, match=r"TRIMODE_API_KEY, whose key no header can carry"):
            parse_settings(["--model", "m"])


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
