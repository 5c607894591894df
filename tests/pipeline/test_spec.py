"""The contract of a sweep: what its JSON says can be read back."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from trimode.pipeline.run_folder.job_json import job_from_json
from trimode.pipeline.spec import JobSpec, SampleShare
from trimode.tests.fakes.specs import job_spec, task_spec

SPEC = job_spec(Path("/runs"), (dataclasses.replace(task_spec(limit=5), chunk=SampleShare(1, 3)),))


def as_json(spec: JobSpec) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(spec)))
    return raw


def test_a_job_is_read_back_from_its_json() -> None:
    assert job_from_json(as_json(SPEC)) == SPEC


def test_a_job_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_enums_are_written_as_their_values() -> None:
    raw = as_json(SPEC)
    assert (raw["decode"]["mode"], raw["model"]["dtype"], raw["client"]["kind"]) == (
        "linear_spec",
        "float32",
        "embedded",
    )


def test_unknown_keys_are_left_out_and_missing_ones_get_their_default() -> None:
    raw = as_json(SPEC)
    raw["of_a_later_release"] = 1
    del raw["model"]["revision"], raw["resources"]["setup"], raw["identity"]
    assert job_from_json(raw) == dataclasses.replace(SPEC, identity={})


@pytest.mark.parametrize(
    "change",
    [
        {"decode": None},
        {"decode": {"mode": "ar"}},
        {"tasks": {"benchmark": "gsm8k"}},
        {"tasks": ["gsm8k"]},
        {"index": "0"},
        {"index": True},
        {"resources": as_json(SPEC)["resources"] | {"device": "gpu"}},
        {"client": as_json(SPEC)["client"] | {"request_timeout_s": "long"}},
        {"identity": []},
    ],
)
def test_a_damaged_job_is_none(change: dict[str, object]) -> None:
    assert job_from_json(as_json(SPEC) | change) is None


@pytest.mark.parametrize("raw", [None, [], "job", 3, {}])
def test_what_is_no_job_is_none(raw: object) -> None:
    assert job_from_json(raw) is None


def test_the_first_shares_take_what_is_left_over() -> None:
    assert [list(SampleShare(index, 3).positions(5)) for index in range(3)] == [[0, 1], [2, 3], [4]]
