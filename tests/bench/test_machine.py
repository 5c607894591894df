"""A loaded machine is not called quiet."""

from __future__ import annotations

import pytest
from trimode.bench import machine


def test_the_verdict_follows_the_share_that_others_use() -> None:
    assert machine.verdict(0.01) == "the machine was quiet: others used 1.0% of the cores"
    assert machine.verdict(0.3).startswith("NOT a quiet machine: others used 30.0% of the cores")
    assert "not known" in machine.verdict(None)


def test_a_core_that_others_use_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    #        user nice system idle iowait irq softirq steal guest guest_nice
    looks = [[100, 0, 10, 1000, 10, 0, 0, 0, 50, 0], [170, 0, 20, 1090, 20, 0, 0, 20, 100, 0]]
    monkeypatch.setattr(machine, "_ticks", lambda: looks.pop(0))
    assert machine.busy_share(0.0) == pytest.approx(0.5)


def test_the_machine_is_named_before_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "busy_share", lambda: 0.5)
    machine.print_machine()
    printed = capsys.readouterr().out
    assert "cores, " in printed
    assert "before: NOT a quiet machine" in printed
    assert "load average" in printed
