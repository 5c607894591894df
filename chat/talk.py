"""The chat commands: a conversation on a terminal, and one question from stdin."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

from trimode.chat.answer import Answerer, Reply
from trimode.chat.commands import State, run
from trimode.chat.conversation import Conversation
from trimode.chat.flags import DTYPES, MODEL, loads, parser, settings_of
from trimode.chat.local import find_adapter, load, local_modes
from trimode.chat.screen import Screen
from trimode.chat.server import ServedModel
from trimode.chat.settings import LORA_SUFFIX, checked_mode
from trimode.core.command import INTERRUPTED
from trimode.core.errors import ConfigError, TrimodeError, guarded
from trimode.core.protocol import WorkerSettings
from trimode.pipeline.server.address import api_base
from trimode.pipeline.spec import ServerSpec

ENDS = ("exit", "quit")
PROMPT = "User: "
QUOTES = '"""'
Open = Callable[[argparse.Namespace, str | None], Answerer]
"""(flags, mode) -> who answers."""


def open_answerer(args: argparse.Namespace, mode: str | None) -> Answerer:
    """Returns the running server of --server, or loads the model. Raises ConfigError or WorkerError."""
    if args.server is not None:
        server = ServerSpec(url=api_base(args.server), engine="server", api_key_file=args.api_key_file)
        served = ServedModel(server, args.model or "")
        if mode is not None and not served.modes:
            raise ConfigError(f"--mode: got {mode}, but {args.server} names no modes; valid: without --mode")
        if mode is not None:
            checked_mode(mode, served.modes)
        return served
    mode = checked_mode(mode or "", local_modes())
    from trimode.workers.runtime import checkpoint_folder  # imports torch

    name = args.model or MODEL
    print(f"loading {name} ...", file=sys.stderr, flush=True)
    folder = checkpoint_folder(name, args.revision)
    settings = WorkerSettings(
        model=str(folder),
        lora=find_adapter(folder, args.lora_path, args.lora_subfolder, needed=mode.endswith(LORA_SUFFIX)),
        device=args.device,
        dtype=DTYPES[args.dtype],
        quantization=args.quantization,
        max_num_seqs=1,
    )
    return load(settings, name)


async def answer(state: State, question: str, screen: Screen) -> Reply:
    """Asks one question and shows the answer as it comes. Raises TrimodeError."""
    screen.begin(state.settings.thinking)
    async for part in state.answerer.answer(state.conversation.messages(question), state.settings):
        if isinstance(part, Reply):
            return part
        screen.part(part)
    raise ConfigError("nobody answered")


def one_question(argv: Sequence[str], mode: str, prog: str, opened: Open = open_answerer) -> int:
    """A preset: one user message from stdin, its answer and NFE on stdout. Returns the exit status."""

    def command() -> int:
        args = loads(argv, parser(prog, f"One question from stdin, answered in mode {mode}.", mode))
        question = _read(lambda: input(PROMPT) if sys.stdin.isatty() else sys.stdin.read()).strip()
        if not question:
            raise ConfigError("stdin: got no message; valid: one user message")
        answerer = opened(args, mode)
        try:
            screen = Screen()
            state = State(answerer, settings_of(args, mode), Conversation(system=args.system))
            screen.end(asyncio.run(answer(state, question, screen)).stats.line())
        finally:
            answerer.close()
        return 0

    return _ended_by_hand(command)


def conversation(argv: Sequence[str], prog: str, opened: Open = open_answerer) -> int:
    """Talks until the user ends it. Returns the exit status."""

    def command() -> int:
        made = parser(prog, "Chats with the model on the terminal; :help lists the commands inside.", None)
        args = loads(argv, made)
        if args.mode is None and args.server is None:
            raise ConfigError(f"--mode is required; valid: {', '.join(local_modes())}")
        settings = settings_of(args, args.mode)
        answerer = opened(args, args.mode)
        try:
            with asyncio.Runner() as runner:
                talk(State(answerer, settings, Conversation(system=args.system)), Screen(), runner)
        finally:
            answerer.close()
        return 0

    return _ended_by_hand(command)


def _ended_by_hand(command: Callable[[], int]) -> int:
    """Runs a command. Ctrl-C and the end of the input end it without a traceback."""
    try:
        return guarded(command)
    except (KeyboardInterrupt, EOFError):
        print(file=sys.stderr)
        return INTERRUPTED


def talk(state: State, screen: Screen, runner: asyncio.Runner) -> None:
    """Reads messages and commands until the user ends it or the input does."""
    mode = f", mode {state.settings.mode}" if state.settings.mode else ""
    screen.note(f"{state.answerer.name}{mode}; :help lists the commands")
    while not state.ended:
        try:
            line = _read(read_message)
        except EOFError:
            break
        except KeyboardInterrupt:
            screen.note("\n(:q or Ctrl-D leaves)")
            continue
        except ConfigError as error:
            screen.note(f"error: {error}")
            continue
        if line.strip() in ENDS:
            break
        if not line.strip():
            continue
        try:
            react(line, state, screen, runner)
        except TrimodeError as error:
            screen.note(f"error: {error}")
        except BrokenPipeError:
            raise
        except OSError as error:
            screen.note(f"error: {error.filename}: {error.strerror}")


def react(line: str, state: State, screen: Screen, runner: asyncio.Runner) -> None:
    """Runs a command, or answers a message. An answer that is stopped or fails changes nothing in the conversation."""
    question: str | None = line
    before = list(state.conversation.turns)
    if line.startswith(":"):
        if shown := run(line, state):
            screen.note(shown)
        question, state.again = state.again, None
    if question is None:
        return
    try:
        reply = runner.run(answer(state, question, screen))
    except KeyboardInterrupt:
        state.conversation.turns = before
        screen.note("\n(stopped; the conversation is as it was)")
        return
    except TrimodeError:
        state.conversation.turns = before
        raise
    state.conversation.add(question, reply.text)
    cut = " (cut at max_new_tokens)" if reply.finish_reason == "length" else ""
    screen.end(reply.stats.line() + cut)


def _read(read: Callable[[], str]) -> str:
    """Returns what `read` reads from stdin, as UTF-8 whatever the locale is. ConfigError if it is none."""
    try:
        return read().encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise ConfigError("stdin: got bytes that are not UTF-8; valid: a message in UTF-8") from None


def read_message() -> str:
    """Returns the next message: a line, lines that end in a backslash, or lines between triple quotes."""
    line = input(PROMPT if sys.stdin.isatty() else "")
    if line.strip() == QUOTES:
        lines = []
        while (more := input()).strip() != QUOTES:
            lines.append(more)
        return "\n".join(lines)
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input()
    return line
