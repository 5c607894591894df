"""The commands of a chat: lines that begin with a colon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from trimode.chat.answer import Answerer
from trimode.chat.conversation import Conversation, load
from trimode.chat.settings import Settings, checked_mode
from trimode.core.errors import ConfigError

HELP = """\
:mode NAME          decode otherwise: {modes}
:set NAME VALUE     change a setting: {settings}; `none` is the default
:settings           show the settings
:system TEXT        system prompt of this conversation; without TEXT: none
:think on|off       let the model think before it answers
:retry              answer the last question again
:undo               take the last question and its answer back
:new                begin a new conversation
:show               show the conversation
:save FILE          write the conversation as JSON
:load FILE          go on with a saved conversation
:help               this list
:q, :quit           leave; so do exit, quit and Ctrl-D. Ctrl-C stops an answer
A line that ends in \\ goes on in the next one. Lines between two lines of \"\"\" are one message."""


@dataclass(slots=True)
class State:
    """All that commands change."""

    answerer: Answerer
    settings: Settings
    conversation: Conversation
    ended: bool = False
    again: str | None = None
    """A question to ask now."""


def run(line: str, state: State) -> str:
    """Runs one command. Returns what to show; empty for nothing. Raises ConfigError for a mistake."""
    name, _, rest = line[1:].strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise ConfigError(f"command: got :{name}; valid: {', '.join(':' + known for known in COMMANDS)}")
    return command(state, rest.strip())


def _help(state: State, _rest: str) -> str:
    names = ", ".join(item.name for item in fields(Settings) if item.name not in ("mode", "thinking"))
    return HELP.format(modes=", ".join(state.answerer.modes) or "the server's own only", settings=names)


def _mode(state: State, rest: str) -> str:
    if rest:
        state.settings = replace(state.settings, mode=checked_mode(rest, state.answerer.modes))
    return f"mode {state.settings.mode or 'of the server'}"


def _set(state: State, rest: str) -> str:
    name, _, value = rest.partition(" ")
    if not value:
        raise ConfigError(f":set: got {rest!r}; valid: :set NAME VALUE")
    state.settings = state.settings.with_value(name, value.strip(), state.answerer.modes)
    return _settings(state, "")


def _settings(state: State, _rest: str) -> str:
    shown = [f"{item.name} {getattr(state.settings, item.name)}" for item in fields(Settings)]
    return f"{state.answerer.name}: " + ", ".join(text for text in shown if not text.endswith(" None"))


def _system(state: State, rest: str) -> str:
    state.conversation.system = rest
    return "system prompt set" if rest else "no system prompt"


def _think(state: State, rest: str) -> str:
    state.settings = state.settings.with_value("thinking", rest or "on", state.answerer.modes)
    return f"thinking {'on' if state.settings.thinking else 'off'}"


def _retry(state: State, _rest: str) -> str:
    state.again = _taken_back(state)
    return ""


def _undo(state: State, _rest: str) -> str:
    question = _taken_back(state)
    return f"taken back: {question}"


def _taken_back(state: State) -> str:
    question = state.conversation.take_back()
    if question is None:
        raise ConfigError("there is no question yet")
    return question


def _new(state: State, _rest: str) -> str:
    state.conversation = Conversation(system=state.conversation.system)
    return "new conversation"


def _show(state: State, _rest: str) -> str:
    lines = [f"{message['role']}: {message['content']}" for message in state.conversation.messages()]
    return "\n".join(lines) or "nothing was said yet"


def _save(state: State, rest: str) -> str:
    path = _file(rest, ":save")
    state.conversation.save(path, {"model": state.answerer.name, "mode": state.settings.mode})
    return f"saved: {path}"


def _load(state: State, rest: str) -> str:
    state.conversation = load(_file(rest, ":load"))
    number = len(state.conversation.turns) // 2
    return "1 question with its answer" if number == 1 else f"{number} questions with their answers"


def _file(text: str, command: str) -> Path:
    if not text:
        raise ConfigError(f"{command}: got no file; valid: {command} FILE")
    return Path(text).expanduser()


def _quit(state: State, _rest: str) -> str:
    state.ended = True
    return ""


COMMANDS: dict[str, Callable[[State, str], str]] = {
    "help": _help,
    "mode": _mode,
    "set": _set,
    "settings": _settings,
    "system": _system,
    "think": _think,
    "retry": _retry,
    "undo": _undo,
    "new": _new,
    "show": _show,
    "save": _save,
    "load": _load,
    "q": _quit,
    "quit": _quit,
}
