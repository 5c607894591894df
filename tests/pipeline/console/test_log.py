"""Signals and output of a job."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from trimode.core.errors import Stopped
from trimode.pipeline.console.log import JobLog
from trimode.pipeline.console.signals import Signals


def tell(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_signal_is_raised_where_it_is_asked_for() -> None:
    with Signals() as signals:
        tell(signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            signals.check()


def test_signal_cancels_the_running_coroutine_and_lets_it_clean_up() -> None:
    cleaned = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_soon(tell, signal.SIGUSR2)
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    with Signals() as signals, pytest.raises(Stopped, match="SIGUSR2"):
        signals.run(work())
    assert cleaned == [True]


def test_signal_before_the_coroutine_keeps_it_from_working() -> None:
    worked = []

    async def work() -> None:
        await asyncio.sleep(0)
        worked.append(True)

    with Signals() as signals:
        tell(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.run(work())
    assert worked == []


def test_signal_interrupts_a_blocking_call_that_cannot_ask() -> None:
    with Signals() as signals, pytest.raises(Stopped), signals.at_once():
        tell(signal.SIGINT)
        time.sleep(60)


def test_later_signals_do_nothing() -> None:
    with Signals() as signals:
        tell(signal.SIGTERM)
        tell(signal.SIGINT)
        with pytest.raises(Stopped, match="SIGTERM"):
            signals.check()


def test_ignored_signals_are_not_raised() -> None:
    with Signals() as signals:
        signals.ignore()
        tell(signal.SIGTERM)
        signals.check()


def test_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_log_takes_what_is_printed_and_is_appended_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    for word in ("one", "two"):
        with JobLog(path) as log:
            print(word)
            print("bad", word, file=sys.stderr)
            log.write_line("only here")
    assert path.read_text() == "one\nbad one\nonly here\ntwo\nbad two\nonly here\n"
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("one\ntwo\n", "bad one\nbad two\n")


def test_text_that_no_encoding_has_is_printed_as_an_escape(tmp_path: Path) -> None:
    with JobLog(tmp_path / "log") as log:
        print("cut \ud83d")
        log.write_line("and \udc00")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "cut \\ud83d\nand \\udc00\n"
