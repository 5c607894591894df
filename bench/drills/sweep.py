"""One small sweep in a folder of its own: the command, the Slurm job, its processes, and what its workers have done."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
from trimode.core.files import whole_lines
from trimode.core.project import PROJECT_DIR, child_environment
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_rows
from trimode.pipeline.slurm.queue import has_ended, queue_entries

MARK = "TRIMODE_DRILL"
"""Variable by which every process of a sweep is found: all of them inherit it."""
COMMAND_LIMIT_S = 300.0
STATS_LIMIT_S = 2.0
END_LINE = "workers at the end: "
"""How the balancer's log begins its counters when it stops in order."""
PROGRAMS = {
    "job": re.compile(r"^\S*python\S* .*trimode\.pipeline\.launch\.task"),
    "balancer": re.compile(r"^\S*python\S* .*trimode\.balancer(\.server)? "),
    "worker": re.compile(r"^ray::WorkerActor"),
    "raylet": re.compile(r"^\S*/raylet "),
    "gcs": re.compile(r"^\S*/gcs_server "),
    "scorer": re.compile(r"^\S*python\S* .*trimode\.pipeline\.scoring\.worker"),
    "srun": re.compile(r"^(\S*/)?srun "),
    "batch": re.compile(r"^\S*bash .*/slurm_script"),
}
"""Command lines of the processes of a sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every sweep of the drills evaluates."""

    mode: str = "ar"
    benchmarks: tuple[str, ...] = ("demo-code", "demo-math")
    limit: int = 40
    tokens: int = 320
    """Of every answer, the end token ignored: long enough to be hit in the middle."""
    batch_size: int = 16
    more: tuple[str, ...] = ()
    """Further words of the command line."""

    def flags(self) -> list[str]:
        """Returns the command line of the sweep, without its output folder."""
        model = str(PROJECT_DIR / "assets" / "demo_model")
        flags = ["--mode", self.mode, "--model", model, "--benchmarks", ",".join(self.benchmarks)]
        flags += ["--limit", str(self.limit), "--tokens", str(self.tokens), "--no-eos-early-stop"]
        flags += ["--batch-size", str(self.batch_size), "--cluster", "bare", "--device", "cpu", "--gpus", "1"]
        return [*flags, *self.more, "model.dtype=float32"]  # so that who is batched with whom changes no token


@dataclass(slots=True)
class Sweep:
    """The command in its folder, and all that comes of it."""

    folder: Path
    settings: Settings
    job_ids: list[str] = field(default_factory=list)
    """Slurm jobs in the order of submission."""
    typed: list[str] = field(default_factory=list)
    """What a person had to type after the first submission."""
    forwards: dict[tuple[str, int], int] = field(default_factory=dict)
    """Forwards that generated tokens, by server and worker process, as last seen."""
    temporary: set[str] = field(default_factory=set)
    """Folders in /tmp that processes of the sweep worked in."""

    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def out_dir(self) -> Path:
        """The output folder of the command."""
        return self.folder / "out"

    @property
    def paths(self) -> RunPaths | None:
        """The run folder, once it is there."""
        found = sorted(self.out_dir.glob("*/hf_base/eval_*"))
        return RunPaths(found[0]) if found else None

    def start_command(self, *more: str, output: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Starts the command that eval.sh ends in, with `more` flags. What it prints goes to `output`."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        environment = child_environment(**{MARK: str(self.folder), "TMPDIR": str(self.folder / "tmp")})
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "trimode.pipeline.eval", *self.settings.flags(), "--out-dir", "out", *more]
        errors = subprocess.PIPE if output == subprocess.PIPE else subprocess.STDOUT
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=errors, text=True)

    def end_command(self, process: subprocess.Popen[str]) -> int:
        """Waits for a command. Returns its exit status, and notes the jobs that it submitted."""
        printed, said = process.communicate(timeout=COMMAND_LIMIT_S)
        with (self.folder / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"--- exit status {process.returncode}\n{printed}{said}")
        self.job_ids += [line.split()[1] for line in printed.splitlines() if line.startswith("submitted ")]
        return process.returncode

    def submit(self) -> int:
        """Types the command and waits for it. Returns its exit status."""
        return self.end_command(self.start_command())

    def type(self, what: str) -> None:
        """Notes that a person had to type something."""
        self.typed.append(what)

    @property
    def job_id(self) -> str:
        """The Slurm job that was submitted last."""
        return self.job_ids[-1]

    def queue_state(self) -> tuple[str, str]:
        """Returns state and reason of the last job; two empty strings if Slurm does not know it."""
        entry = queue_entries([self.job_id]).get(self.job_id)
        return ("", "") if entry is None else (entry.state, entry.reason)

    def has_ended(self) -> bool:
        """True if no job of this sweep waits or runs in Slurm."""
        entries = queue_entries(self.job_ids)
        return all(has_ended(entries[job_id].state if job_id in entries else None) for job_id in self.job_ids)

    def is_completed(self) -> bool:
        """True if the run folder has its COMPLETED marker."""
        return self.paths is not None and self.paths.completed(0).exists()

    def processes(self) -> dict[int, str]:
        """Returns the living processes of the sweep with their command lines, the submitting command excepted."""
        mark = f"\0{MARK}={self.folder}\0".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark not in b"\0" + (entry / "environ").read_bytes() + b"\0":
                    continue
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                with contextlib.suppress(OSError):
                    self._note_folder(str((entry / "cwd").readlink()))
            except OSError:
                continue
            if command and " -m trimode.pipeline.eval " not in command:
                found[int(entry.name)] = command
        return found

    def _note_folder(self, folder: str) -> None:
        if folder.startswith("/tmp/trimode-balancer-"):  # noqa: S108 (compared, not made)
            self.temporary.add("/".join(folder.removesuffix(" (deleted)").split("/")[:3]))

    def pids(self, program: str) -> list[int]:
        """Returns the processes of one kind, a key of PROGRAMS."""
        return sorted(pid for pid, command in self.processes().items() if PROGRAMS[program].search(command))

    def num_stored(self) -> int:
        """Returns the scored rows on disk, finished or not."""
        paths = self.paths
        return 0 if paths is None else sum(len(read_rows(paths, name, 0)) for name in self.settings.benchmarks)

    def phase(self) -> str:
        """Returns what the job does now: start-up, serving, scoring or end."""
        if self.num_stored() >= len(self.settings.benchmarks) * self.settings.limit:
            return "end"
        stats = self.look()
        if stats is None:
            return "start-up"
        balancer = stats["balancer"]
        busy = balancer["running"] + balancer["waiting"]
        return "serving" if busy or not balancer["finished"] else "scoring"

    def look(self) -> dict[str, dict[str, int]] | None:
        """Notes the counters of the workers that serve now. Returns the server's stats; None if none answers."""
        url = self._address()
        if not url:
            return None
        try:
            reply = httpx.get(f"{url}/stats", headers=self._headers(url), timeout=STATS_LIMIT_S, trust_env=False)
            stats: dict[str, dict[str, int]] = reply.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return None
        for worker in stats["workers"]:
            self._note(url, worker)  # type: ignore[arg-type]
        return stats

    def _note(self, url: str, worker: dict[str, object]) -> None:
        engine, pid = worker.get("engine"), worker.get("pid")
        if isinstance(engine, dict) and isinstance(pid, int):
            count = sum(rows for kind, rows in engine["rows"].items() if kind != "prefill")
            self.forwards[url, pid] = max(count, self.forwards.get((url, pid), 0))

    def _address(self) -> str:
        """Returns the address of the server that serves now; empty if there is none."""
        logs = None if self.paths is None else self.paths.results / "worker_logs"
        for path in sorted(logs.glob("*.ready.json")) if logs is not None else ():
            with contextlib.suppress(OSError, ValueError, KeyError):  # it is removed at any moment
                ready = json.loads(path.read_text(encoding="utf-8"))
                if Path(f"/proc/{ready['pid']}").exists():
                    return str(ready["url"])
        return ""

    def _headers(self, url: str) -> dict[str, str]:
        """Returns the header with the server's key, which the job holds in a file in memory."""
        for pid in () if url in self._keys else (*self.pids("job"), *self.pids("balancer")):
            with contextlib.suppress(OSError):
                for handle in Path(f"/proc/{pid}/fd").iterdir():
                    if "memfd:api-key" in str(handle.readlink()):
                        self._keys[url] = handle.read_text(encoding="ascii")
        return {"Authorization": f"Bearer {self._keys.get(url, '')}"}

    def forwards_done(self) -> int:
        """Returns how many forwards that generate tokens all workers of the sweep have done in all their lives."""
        if self.paths is not None:
            for line in whole_lines(self.paths.balancer_log(0)):
                _, found, raw = line.partition(END_LINE)
                if found:
                    end = json.loads(raw)
                    for worker in end["workers"]:
                        self._note(end["url"], worker)
        return sum(self.forwards.values())

    def kill_all(self) -> None:
        """Leaves nothing running behind, whatever happened."""
        if self.job_ids:
            subprocess.run(["scancel", "--signal=KILL", "--full", *self.job_ids], capture_output=True, check=False)
            subprocess.run(["scancel", *self.job_ids], capture_output=True, check=False)
        time.sleep(0.5)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
