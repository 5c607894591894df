"""The probe: one small job that talks with this host through the output folder, and what the talk shows.

It answers what no command of Slurm can: whether nodes see the folder, and whether locks, renames and clocks hold there.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimode.core.errors import WorkerError
from trimode.core.files import tail
from trimode.pipeline.doctor import probe_node
from trimode.pipeline.doctor.probe_node import Lock, hear, replace_and_read, say
from trimode.pipeline.launch.finding import Check, Finding, Subject, fail, ok, warn
from trimode.pipeline.plan.survey import absolute
from trimode.pipeline.slurm.commands import ask
from trimode.pipeline.slurm.probe import probe_text
from trimode.pipeline.slurm.queue import has_ended, job_states
from trimode.pipeline.spec import Container

QUEUE_S = 300.0
"""Seconds the job may wait for a node."""
ASK_EVERY_S = 2.0
REPLACE_S = 2.0
"""Seconds in which both sides replace and read files."""
CLOCK_S = 2.0
"""Seconds that the clocks of a node and of this host may differ. Heartbeats of two hosts are compared."""


@dataclass(slots=True)
class Talk:
    """What the two sides said to each other."""

    folder: Path
    job_id: str = ""
    waited_s: float = 0.0
    """Seconds from the submission to the node's first message."""
    node: dict[str, object] | None = None
    host_lock: str = ""
    """What taking the lock gave here while the node held it."""
    offset_s: float = 0.0
    """How much the node's clock is ahead."""
    doubt_s: float = 0.0
    """How wrong `offset_s` may be: half the time of a message there and back."""
    answer: dict[str, object] | None = None
    """The node's second message."""
    replaced_here: dict[str, object] | None = None
    replaced_there: dict[str, object] | None = None


def check_probe(subject: Subject) -> Iterator[Finding]:
    """Runs the probe job and says what it found. Nothing of it is left in the queue or on the disk."""
    if not subject.on_slurm:
        return
    if not subject.jobs:
        yield warn("probe", "not run: there is no job to take its settings from", "see the other lines")
        return
    out_dir = absolute(subject.config.out_dir, subject.survey.cwd)
    out_dir.mkdir(parents=True, exist_ok=True)
    talk = Talk(Path(tempfile.mkdtemp(prefix=".probe-", dir=out_dir)))
    try:
        yield from _probe(subject, talk)
    finally:
        if talk.job_id and _life(talk.job_id) is not False:
            ask(["scancel", talk.job_id])
        shutil.rmtree(talk.folder, ignore_errors=True)


def _probe(subject: Subject, talk: Talk) -> Iterator[Finding]:
    say(talk.folder, "host-0", {"paths": _paths(subject)})
    with contextlib.closing(Lock(talk.folder)) as lock:
        held = lock.take()
        if held != "taken":
            text = f"{talk.folder.parent}: {held} on this host"
            yield fail("flock", text, "give --out-dir on a file system with flock")
            return
        problem = _start(subject, talk)
        if problem is None:
            _exchange(talk, lock)
            yield from results(talk, subject.config.cluster.container is Container.none)
        else:
            yield problem


def _start(subject: Subject, talk: Talk) -> Finding | None:
    """Submits the job and waits until it speaks. Returns what is wrong if it does not."""
    script = probe_text(subject.jobs[0], talk.folder, Path(probe_node.__file__).resolve())
    began = time.monotonic()
    reply = ask(["sbatch", "--parsable"], limit_s=30.0, text=script)
    if reply.problem is not None:
        return fail("probe", reply.problem, "see the line of sbatch --test-only")
    talk.job_id = reply.out.strip().split(";")[0]
    return _wait_for_node(talk, began)


def _paths(subject: Subject) -> list[str]:
    """Returns the folders that the jobs read."""
    survey, job = subject.survey, subject.jobs[0]
    weights = [item.path for item in (survey.model, survey.tokenizer, survey.adapter) if item and item.is_folder]
    return [*weights, *([job.data_dir] if job.data_dir else [])]


def _life(job_id: str) -> bool | None:
    """True if the job waits or runs, False if it has ended, None if squeue cannot be asked."""
    try:
        return not has_ended(job_states([job_id]).get(job_id))
    except WorkerError:
        return None


def _wait_for_node(talk: Talk, began: float) -> Finding | None:
    """Waits for the node's first message. Returns what is wrong if it does not come."""
    while time.monotonic() - began < QUEUE_S:
        talk.node = hear(talk.folder, "node-1", ASK_EVERY_S)
        if talk.node is not None:
            talk.waited_s = time.monotonic() - began
            return None
        if _life(talk.job_id) is False:
            talk.node = hear(talk.folder, "node-1", ASK_EVERY_S)
            if talk.node is not None:
                talk.waited_s = time.monotonic() - began
                return None
            logs = sorted(talk.folder.glob("*_log.out")) + sorted(talk.folder.glob("*.out"))
            said = " ".join(tail(logs[0], 3).split()) if logs else "it wrote nothing here"
            return fail(
                "probe",
                f"job {talk.job_id} ended before it spoke: {said}",
                "give --out-dir on a file system that the nodes see; the interpreter and the project must be there too",
            )
    try:
        state = job_states([talk.job_id]).get(talk.job_id)
    except WorkerError:
        state = None
    if state == "RUNNING":
        return fail(
            "probe",
            f"job {talk.job_id} runs, and its files are not seen in {talk.folder.parent}",
            "give --out-dir on a file system that this host and the nodes share",
        )
    return warn("probe", f"no node was free within {QUEUE_S:.0f} s; the job is cancelled", "ask again later")


def _exchange(talk: Talk, lock: Lock) -> None:
    """The rest of the talk: the lock handed over, the clocks compared, files replaced on both sides."""
    lock.release()
    sent = time.time()
    say(talk.folder, "host-1", {"time": sent})
    talk.answer = hear(talk.folder, "node-2")
    if talk.answer is None:
        return
    heard = time.time()
    there = talk.answer.get("time")
    if isinstance(there, float):
        talk.offset_s, talk.doubt_s = there - (sent + heard) / 2, (heard - sent) / 2
    talk.host_lock = lock.take()
    talk.replaced_here = replace_and_read(talk.folder, "host", "node", talk.folder / "node-3", REPLACE_S)
    say(talk.folder, "host-2", {})
    talk.replaced_there = hear(talk.folder, "node-3")


def results(talk: Talk, own_packages: bool) -> Iterator[Finding]:
    """Returns what the talk shows. `own_packages`: the jobs run in this project's environment."""
    node = talk.node or {}
    yield ok("probe", f"job {talk.job_id} spoke from {node.get('host')} after {talk.waited_s:.1f} s")
    missing = node.get("missing_packages")
    if isinstance(missing, list) and missing:
        what = "run bash eval.sh --setup worker" if own_packages else "build the image with the worker packages"
        yield fail("node's Python", f"{node.get('executable')} lacks {', '.join(missing)}", what)
    else:
        yield ok("node's Python", f"{node.get('python')} at {node.get('executable')}, with all packages")
    unseen = node.get("missing_paths")
    if isinstance(unseen, list) and unseen:
        yield fail("node's files", f"the node does not see {', '.join(unseen)}", "put them on a shared file system")
    else:
        yield ok("node's files", "the node sees weights and data")
    if talk.answer is None:
        yield fail(
            "shared folder",
            "the node's files are seen here, and those of this host are not seen there",
            "give --out-dir on another file system, or ask support for a shorter attribute cache",
        )
        return
    yield ok("shared folder", f"seen from both sides; a file there and back takes {2 * talk.doubt_s:.2f} s")
    yield _locks(node.get("lock"), talk.answer.get("lock"), talk.host_lock)
    yield _renames(talk)
    yield _clock(talk)


def _locks(first: object, second: object, here: str) -> Finding:
    """`first`: taking the lock on the node while this host held it; `second`: when it was free; `here`: then here."""
    if (first, second, here) == ("refused", "taken", "refused"):
        return ok("flock", "locks of the node hold here, and those of this host hold there")
    text = f"a lock that this host held was {first} on the node; the node's own was {second}, and then {here} here"
    return fail(
        "flock", text, "give --out-dir on a file system that honours flock across nodes (Lustre: mount -o flock)"
    )


def _renames(talk: Talk) -> Finding:
    if talk.replaced_here is None or talk.replaced_there is None:
        return fail("rename", "the node did not finish", "look at the load of the file server")
    sides = (talk.replaced_here, talk.replaced_there)
    wrong = {name: sum(_number(side.get(name)) for side in sides) for name in ("gone", "broken")}
    read_files = sum(_number(side.get("read")) for side in sides)
    if any(wrong.values()):
        text = f"of {read_files} files read while the other side replaced them {wrong['gone']} were gone"
        return warn("rename", f"{text} and {wrong['broken']} not whole", "give --out-dir on another file system")
    return ok("rename", f"{read_files} files were read while the other side replaced them; all were whole")


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _clock(talk: Talk) -> Finding:
    text = f"the node is {round(talk.offset_s, 2) + 0.0:+.2f} s ahead (give or take {talk.doubt_s:.2f} s)"
    if abs(talk.offset_s) - talk.doubt_s > CLOCK_S:
        return warn("clock", text, "ask support to set the clocks (NTP): heartbeats of two hosts are compared")
    return ok("clock", text)


PROBE = Check(name="probe", look=check_probe, limit_s=None)
"""It waits in steps, and Ctrl-C ends the job and removes its files."""
