"""What pytest and torch's profiler say is read right."""

from __future__ import annotations

import pytest
from trimode.bench.gpu.cuda_tests import command, failures, files, outcomes
from trimode.bench.gpu.device_time import profile_lines, summary

PRINTED = """
tests/kernels/test_a.py::test_one[cuda] PASSED [ 25%]
[gw1] [ 50%] PASSED tests/kernels/test_a.py::test_two
[gw0] [ 75%] FAILED tests/kernels/test_a.py::test_three
tests/kernels/test_b.py::test_four ERROR [100%]
=========================== short test summary info ============================
SKIPPED [1] tests/kernels/test_a.py:9: no GPU
FAILED tests/kernels/test_a.py::test_three - AssertionError: wrong
ERROR tests/kernels/test_b.py::test_four - RuntimeError
""".splitlines()


def test_outcomes_of_tests() -> None:
    assert outcomes(PRINTED) == {"passed": 2, "failed": 2, "skipped": 0}
    assert failures(PRINTED) == PRINTED[-2:]


def test_the_tests_of_the_gpu_are_chosen_by_their_marker() -> None:
    call = command(dry=False)
    assert call[call.index("-m", 2) + 1 :] == ["cuda", *files()]
    assert "tests/kernels/test_rms_norm.py" in files()


def test_time_of_kernels_that_overlap_counts_once() -> None:
    found = summary([(0.0, 10.0, "a"), (5.0, 12.0, "b"), (20.0, 30.0, "a")])
    assert found.span_s == pytest.approx(30e-6)
    assert found.busy_s == pytest.approx(22e-6)
    assert found.idle == pytest.approx(8 / 30)
    assert [(name, launches) for name, launches, _ in found.by_kernel] == [("a", 2), ("b", 1)]
    assert profile_lines(found, 2).startswith("a: 10.0 us in 1 launches")
