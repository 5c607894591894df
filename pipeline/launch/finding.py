"""What a check before a run finds: a name, a state, one line of text, and what to do about it.

The preflight of a sweep raises the first finding that fails. The doctor prints all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from trimode.core.errors import ConfigError, TrimodeError
from trimode.pipeline.config.schema import Config
from trimode.pipeline.plan.survey import Survey
from trimode.pipeline.spec import Executor, JobSpec


class State(StrEnum):
    """What a finding means for a run."""

    OK = "ok"
    WARN = "warn"
    """A run may start. It may fail or wait later."""
    FAIL = "fail"
    """A run cannot start, or cannot succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's screen."""

    name: str
    state: State
    text: str
    """What was found, in one line."""
    remedy: str = ""
    """What the user can do; empty if nothing is to be done."""

    def message(self) -> str:
        """Returns the finding as an error's message."""
        return "; ".join(part for part in (self.text, self.remedy) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the checks look at: a sweep, as far as it could be planned."""

    config: Config
    survey: Survey
    jobs: Sequence[JobSpec]
    """Jobs that would be started; empty if there is no plan."""

    @property
    def on_slurm(self) -> bool:
        """True if the jobs run under Slurm."""
        return self.config.cluster.executor is Executor.slurm

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks of all jobs, each once."""
        return list(dict.fromkeys(task.benchmark for job in self.jobs for task in job.tasks))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A named question about a sweep."""

    name: str
    look: Callable[[Subject], Iterable[Finding]]
    """Returns what it finds: nothing if the question does not arise. May raise ConfigError, which is a failure."""
    limit_s: float | None = 60.0
    """Seconds the doctor waits for it; None for a check that limits itself and has something to tidy up."""
    needs_no_job: bool = True
    """False for a check that says nothing of use where there is no job."""


def ok(name: str, text: str) -> Finding:
    """Returns a finding that all is well."""
    return Finding(name=name, state=State.OK, text=text)


def warn(name: str, text: str, remedy: str) -> Finding:
    """Returns a finding that a run may stumble over."""
    return Finding(name=name, state=State.WARN, text=text, remedy=remedy)


def fail(name: str, text: str, remedy: str) -> Finding:
    """Returns a finding that stops a run."""
    return Finding(name=name, state=State.FAIL, text=text, remedy=remedy)


def failure(name: str, error: Exception) -> Finding:
    """Returns an error as a finding. What an error's message calls valid is the remedy."""
    said = str(error) if isinstance(error, TrimodeError) else f"{type(error).__name__}: {error}"
    text, separator, valid = said.partition("; valid: ")
    return fail(name, text, f"valid: {valid}" if separator else "")


def demand(checks: Iterable[Check], subject: Subject) -> None:
    """Runs the checks in order. Raises ConfigError for the first finding that fails."""
    for check in checks:
        for finding in check.look(subject):
            if finding.state is State.FAIL:
                raise ConfigError(finding.message())


def findings(check: Check, subject: Subject) -> list[Finding]:
    """Returns what a check finds. Its errors are findings too, and so is that it does not come back in time.

    One with a limit runs in a thread of its own: a look at a dead file server may last for ever.
    """
    found: list[Finding] = []

    def look() -> None:
        try:
            found.extend(check.look(subject))
        except (TrimodeError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            found.append(failure(check.name, error))

    if check.limit_s is None:
        look()
        return found
    thread = threading.Thread(target=look, name=check.name, daemon=True)
    thread.start()
    thread.join(check.limit_s)
    if thread.is_alive():
        late = f"no answer within {check.limit_s:.0f} s"
        return [*found, fail(check.name, late, "look whether a file server or a command of Slurm hangs")]
    return found
