"""The conversation and the one-shot presets, with a made-up model."""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path

import pytest
from trimode.chat.answer import Stats
from trimode.chat.screen import Screen, without_control
from trimode.chat.talk import conversation, one_question
from trimode.core.command import run_command
from trimode.tests.fakes.chat import LINE, FakeAnswerer


def chat(text: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[int, FakeAnswerer]:
    fake = FakeAnswerer()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return conversation(["--mode", "ar", *flags], "chat.py", lambda _args, _mode: fake), fake


def ask(text: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> tuple[int, FakeAnswerer]:
    fake = FakeAnswerer()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return one_question(flags, "dlm", "chat_dlm.py", lambda _args, _mode: fake), fake


def test_one_question_prints_the_reply_and_its_nfe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, fake = ask("two\nlines\n", monkeypatch, "--max-new-tokens", "9", "--block-length", "4", "--system", "s")
    assert (status, fake.closed) == (0, True)
    assert capsys.readouterr().out == f"You said two\nlines.\n{LINE}\n"
    messages, settings = fake.asked[0]
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": "two\nlines"}]
    assert (settings.mode, settings.max_new_tokens, settings.block_length) == ("dlm", 9, 4)


@pytest.mark.parametrize(
    ("flags", "text", "said"),
    [
        ((), "  \n", "got no message"),
        (("--threshold", "7"), "hi", "threshold"),
        (("--max-new-tokens", "x"), "hi", "invalid int"),
        (("--api-key-file", "k"), "hi", "acts with --server only"),
        (("--server", "http://h", "--lora-path", "x"), "hi", "has its own model"),
        ((), "refuse", "context: too long"),
    ],
)
def test_mistakes_are_said_without_a_trace(
    flags: tuple[str, ...], text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = ask(text, monkeypatch, *flags)
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert said in error
    assert "Traceback" not in error


def test_a_conversation_keeps_its_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, fake = chat('one\n\ntwo\\\nlines\n"""\nthree\n\nblocks\n"""\nexit\nnever\n', monkeypatch)
    assert status == 0
    assert [messages[-1]["content"] for messages, _ in fake.asked] == ["one", "two\nlines", "three\n\nblocks"]
    assert [message["content"] for message in fake.asked[1][0]] == ["one", "You said one.", "two\nlines"]
    assert capsys.readouterr().out.count(LINE) == 3


def test_commands_change_what_follows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    lines = ["one", ":mode dlm", ":set temperature 0.5", ":think on", ":system be short", ":retry", "two", ":undo"]
    lines += [f":save {file}", ":new", "three", f":load {file}", "four", ":show", ":settings", ":help", ":q"]
    status, fake = chat("\n".join(lines), monkeypatch)
    assert status == 0
    assert [messages[-1]["content"] for messages, _ in fake.asked] == ["one", "one", "two", "three", "four"]
    _, settings = fake.asked[1]
    assert (settings.mode, settings.temperature, settings.thinking) == ("dlm", 0.5, True)
    assert [message["content"] for message in fake.asked[3][0]] == ["be short", "three"]
    assert [message["content"] for message in fake.asked[4][0]] == ["be short", "one", "You said one.", "four"]
    assert json.loads(file.read_text())["model"] == "fake"
    error = capsys.readouterr().err
    assert "taken back: two" in error
    assert "1 question with its answer\n" in error
    assert "mode dlm, max_new_tokens 512, temperature 0.5, thinking True" in error
    assert ":load FILE" in error


def test_a_mistake_a_refusal_and_a_stop_leave_the_conversation_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["one", ":nope", ":mode x", ":set a", ":save", ":load /no/such/file", "refuse", "stop", "two"]
    status, fake = chat("\n".join(lines), monkeypatch)
    assert status == 0
    assert [message["content"] for message in fake.asked[-1][0]] == ["one", "You said one.", "two"]
    error = capsys.readouterr().err
    for said in ("got :nope", "got 'x'", "valid: :set NAME VALUE", "valid: :save FILE", "cannot be read", "too long"):
        assert said in error
    assert "stopped; the conversation is as it was" in error


def test_a_retry_that_fails_keeps_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Once(FakeAnswerer):
        async def answer(self, messages, settings):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            again = len(self.asked) == 1
            async for part in super().answer(messages, settings):
                yield part
                if again:
                    raise KeyboardInterrupt

    fake = Once()
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n:retry\ntwo\n"))
    assert conversation(["--mode", "ar"], "chat.py", lambda _args, _mode: fake) == 0
    assert [message["content"] for message in fake.asked[-1][0]] == ["one", "You said one.", "two"]


def test_a_mode_is_needed_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert conversation([], "chat.py", lambda _args, _mode: FakeAnswerer()) == 2
    assert "--mode is required; valid: ar, dlm, linear_spec, " in capsys.readouterr().err


def test_stats_show_what_is_known() -> None:
    assert Stats(tokens=None, seconds=1.5).line() == "[1.50 s]"
    assert Stats(tokens=3, seconds=0.0, nfe=0).line() == "[NFE=0, 3 tokens, 0.00 s]"


def test_a_model_cannot_move_the_cursor() -> None:
    assert without_control("a\x1b[2J\x07\rb\n\tc\u202e\u00e4\u2028\u3000") == "a[2Jb\n\tc\u00e4\u2028\u3000"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_thoughts_are_dim_up_to_their_end_even_if_it_comes_in_pieces() -> None:
    out = Terminal()
    screen = Screen(out)
    screen.begin(thinking=True)
    for part in ("hm </th", "ink", "> yes", " no"):
        screen.part(part)
    assert out.getvalue() == "\x1b[2mhm </think> yes\x1b[0m no"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_are_refused_and_a_conversation_goes_on(
    errors: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeAnswerer()
    for command, mode in ((conversation, ("--mode", "ar")), (one_question, ())):
        stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8", errors=errors)
        monkeypatch.setattr("sys.stdin", stdin)
        more = ("dlm", "chat_dlm.py") if command is one_question else ("chat.py",)
        assert command(mode, *more, lambda _args, _mode: fake) == (2 if command is one_question else 0)
        assert "not UTF-8" in capsys.readouterr().err
    assert not fake.asked


def test_utf8_is_read_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAnswerer()
    stdin = io.TextIOWrapper(io.BytesIO("caf\u00e9 \U0001f600\n".encode()), encoding="ascii", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", stdin)
    assert one_question((), "dlm", "chat_dlm.py", lambda _args, _mode: fake) == 0
    assert fake.asked[0][0][-1]["content"] == "caf\u00e9 \U0001f600"


def test_a_reader_that_leaves_ends_the_command_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, words in ((conversation, (["--mode", "ar"], "chat.py")), (one_question, ((), "dlm", "chat_dlm.py"))):
        fake = FakeAnswerer()
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as out, pytest.raises(SystemExit) as ended:
            monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
            monkeypatch.setattr("sys.stdout", out)
            run_command(partial(command, *words, lambda _args, _mode, fake=fake: fake))
        assert (ended.value.code, len(fake.asked), fake.closed) == (0, 1, True)
        assert "rror" not in capsys.readouterr().err
