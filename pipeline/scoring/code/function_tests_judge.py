"""Judges one function by its row's tests: runs `check` here, with a `candidate` that calls the answer's process."""

from __future__ import annotations

import builtins
import pickle
import symtable
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from trimode.pipeline.scoring.sandbox.answer import Answer, NoResultError, RaisedError
from trimode.pipeline.scoring.sandbox.isolation import confine_judge
from trimode.pipeline.scoring.sandbox.judge import Court, Verdict, preside, read_message
from trimode.pipeline.scoring.sandbox.values import HeldFunction, HeldIterator, Opaque

TESTS_CPU_S = 60
"""CPU seconds for the tests themselves."""


class NotExpressibleError(BaseException):
    """The tests need more of the answer than calls with plain data."""


class BeyondDataError(BaseException):
    """The tests use an attribute of a result that is not plain data."""


class AnswersError(Exception):
    """An exception of a class that the answer defines."""


class Thing(Opaque):
    """A result that is not plain data. The tests may compare it but not look into it."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - never returns
        raise BeyondDataError(f"the tests use {name!r} of a result of type {self.name}, which is not plain data")


class Remote:
    """The answer's functions, as the tests see them."""

    def __init__(self, answer: Answer, cpu_s: float) -> None:
        self._answer, self._cpu_s = answer, cpu_s
        self.failure: NoResultError | None = None
        """Why the answer gave no result for a call. Such an answer is wrong, whatever the tests make of it."""

    def function(self, target: str | HeldFunction) -> Any:  # noqa: ANN401 - a function
        """Returns a function that calls the answer's."""

        def candidate(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - of any type
            return self._call(target, list(arguments), keywords)

        return candidate

    def _call(self, target: str | HeldFunction, arguments: list[Any], keywords: dict[str, Any]) -> Any:  # noqa: ANN401
        try:
            value = self._answer.call(target, arguments, self._cpu_s, keywords, watch=True)
        except RaisedError as error:
            raise self._error(error) from None
        except NoResultError as error:
            self.failure = self.failure or error
            raise
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise NotExpressibleError(f"an argument is no plain data: {error}") from error
        return self._local(value)

    def _local(self, value: Any) -> Any:  # noqa: ANN401 - of any type
        if isinstance(value, HeldIterator):
            return self._items(value)
        if isinstance(value, HeldFunction):
            return self.function(value)
        return Thing(value.name) if isinstance(value, Opaque) else value

    def _items(self, iterator: HeldIterator) -> Iterator[Any]:
        while True:
            try:
                item = self._call(iterator, [], {})
            except StopIteration:
                return
            yield item

    def _error(self, error: RaisedError) -> Exception:
        kind = getattr(builtins, error.name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(error.text)
            except TypeError:
                return AnswersError(error.text)
        return AnswersError(f"{error.name}: {error.text}")


def start(code: str) -> Mapping[str, Any]:
    """Runs an answer as a script, in its own process. Returns its names."""
    script = ModuleType("__main__")
    sys.modules["__main__"] = script
    exec(compile(code, "program.py", "exec"), script.__dict__)  # noqa: S102 - running the answer is the purpose
    return script.__dict__


def global_names(source: str) -> tuple[set[str], set[str]]:
    """Returns the global names that Python source sets, and those that it only reads."""
    top = symtable.symtable(source, "tests", "exec")
    own = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    own |= {table.get_name() for table in top.get_children()}
    read, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_global() or table is top:
                read.add(symbol.get_name())
    return own, read - own


def names_for_tests(tests: dict[str, Any], remote: Remote) -> dict[str, Any]:
    """Returns the names that the tests use: those of the row's prompt, and the answer's functions for all others.

    What the prompt defines is taken from the prompt, so that an answer cannot replace what the tests rely on.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(tests["prompt"], names)  # noqa: S102 - part of the benchmark's data
    except Exception:  # noqa: BLE001 - many prompts are the beginning of a function only
        names = {"__name__": "__main__"}
    names[tests["entry_point"]] = remote.function(tests["entry_point"])
    for name in global_names(tests["test"])[1]:
        if name not in names and not hasattr(builtins, name):
            names[name] = remote.function(name)
    return names


def run_tests(tests: dict[str, Any], answer: Answer, cpu_s: float) -> Verdict:
    """Returns {"passed": bool}, or why the tests cannot be run this way or the answer cannot be judged."""
    remote = Remote(answer, cpu_s)
    try:
        confine_judge(TESTS_CPU_S)
        answer.start(cpu_s)
        names = names_for_tests(tests, remote)
        exec(f"{tests['test']}\ncheck({tests['entry_point']})\n", names)  # noqa: S102 - part of the benchmark's data
    except NotExpressibleError as error:
        return {"not_expressible": str(error)}
    except BeyondDataError as error:
        return {"unjudged": str(error)}
    except (Exception, SystemExit):  # noqa: BLE001 - tests that raise anything have failed
        return {"passed": False}
    return {"passed": remote.failure is None}


def judge(court: Court, task: dict[str, Any]) -> Verdict:
    """Returns the verdict of one answer."""
    code, cpu_s = task["code"], task["cpu_s"]
    answer = court.answer(lambda: start(code), cpu_s)
    return run_tests(read_message(), answer, cpu_s)


def main() -> None:
    """Judges the task on standard input."""
    preside(judge)
