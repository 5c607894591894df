"""Checks of the cluster: its commands, whether it takes the real batch scripts, its limits, and its containers.

Each command has a time limit of its own (`slurm.commands`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

from trimode.core.counted import counted
from trimode.pipeline.doctor.limits import check_limits, show
from trimode.pipeline.launch.dry_run import job_scripts
from trimode.pipeline.launch.finding import Check, Finding, Subject, fail, ok, warn
from trimode.pipeline.slurm.cluster_facts import partitions
from trimode.pipeline.slurm.commands import MISSING, SILENT, Reply, ask
from trimode.pipeline.spec import Container

NEEDED = ("sbatch", "srun", "squeue", "scontrol")
MOST_SCRIPTS = 5
"""Batch scripts that are shown to sbatch. A sweep has one per set of resources."""
PROGRAMS = {"apptainer": ("apptainer", "singularity")}
"""What runs the containers of a kind that is no plugin of Slurm."""
NO_CLUSTER = "slurm"
"""Name of the finding that there is no cluster here, so that its other checks have nothing to ask."""
NO_ACCOUNTING = "accounting storage is disabled"


def check_commands(subject: Subject) -> Iterator[Finding]:
    """Asks each command of Slurm for its version, and the controller whether it answers."""
    if not subject.on_slurm:
        return
    replies = {name: ask([name, "--version"]) for name in NEEDED}
    if all(reply.lacks_cluster for reply in replies.values()):
        yield _no_cluster(list(replies.values()))
        return
    for name, reply in replies.items():
        if reply.problem is None:
            yield ok(name, reply.out.strip() or "answers")
        elif reply.status == MISSING:
            yield fail(name, reply.problem, "run on a machine that submits to Slurm (or `module load slurm`)")
        else:
            yield fail(name, reply.problem, "run on a machine of the cluster, or set SLURM_CONF; else ask its support")
    reply = ask(["squeue", "--noheader", "--me"])
    if reply.problem is None:
        yield ok("controller", f"answers; {counted(len(reply.out.splitlines()), 'job')} of yours in the queue")
    elif reply.status != MISSING:
        yield fail("controller", reply.problem, "wait until slurmctld answers (`scontrol ping`), or ask support")


def _no_cluster(replies: Sequence[Reply]) -> Finding:
    """Why there is no cluster here, said once."""
    if all(reply.status == MISSING for reply in replies):
        remedy = "run on a machine that submits to Slurm (or `module load slurm`)"
        return fail(NO_CLUSTER, f"{', '.join(NEEDED)} are not on PATH", remedy)
    remedy = "run on a machine of the cluster, or set SLURM_CONF; else ask its support"
    problems = [str(reply.problem) for reply in replies if reply.status != MISSING]
    return fail(NO_CLUSTER, problems[0], remedy)


def check_accounting(subject: Subject) -> Iterator[Finding]:
    """Asks sacct. Without accounting only the ends of jobs that squeue has forgotten are unknown."""
    if not subject.on_slurm:
        return
    reply = ask(["sacct", "--noheader", "--allocations", "--starttime=now"])
    if reply.problem is None:
        version = ask(["sacct", "--version"])
        yield ok("sacct", version.out.strip() or "answers")
    elif NO_ACCOUNTING in reply.err + reply.out:
        yield ok("sacct", "this cluster keeps no accounts; states come from squeue alone")
    else:
        yield warn("sacct", reply.problem, "nothing has to be done: states come from squeue and the run folders")


def check_submission(subject: Subject) -> Iterator[Finding]:
    """Shows sbatch the real batch scripts. It says when they would start, or what it refuses, and submits nothing."""
    if not subject.on_slurm or shutil.which("sbatch") is None:
        return
    if not subject.jobs:
        yield warn("sbatch --test-only", "not asked: there is no job to submit", "see the other lines, or it is done")
        return
    for jobs, script in job_scripts(subject.jobs)[:MOST_SCRIPTS]:
        reply = ask(["sbatch", "--test-only"], limit_s=30.0, text=script)
        names = f"{jobs[0].name} and {len(jobs) - 1} more" if len(jobs) > 1 else jobs[0].name
        if reply.problem is None:
            said = [line.partition("sbatch: ")[2] for line in reply.err.splitlines() if line.startswith("sbatch: ")]
            yield ok("sbatch --test-only", f"{names}: {said[-1] if said else 'accepted'}")
        else:
            yield fail("sbatch --test-only", f"{names}: {reply.problem}", remedy_of(reply.problem, reply.status))


def remedy_of(problem: str, status: int) -> str:
    """Returns what to do about words of sbatch."""
    said = problem.lower()
    if status in (MISSING, SILENT) or "unable to contact" in said:
        return "wait until slurmctld answers (`scontrol ping`), or ask the cluster's support"
    if "partition" in said and "account" not in said and "time" not in said:
        names = ", ".join(item.name for item in partitions(show("partition").out))
        return f"give --partition; valid here: {names or 'see `sinfo`'}"
    if "account" in said or "association" in said:
        return "give --account; yours: `sacctmgr show assoc user=$USER format=account,partition,qos`"
    if "qos" in said:
        return "give another --qos; yours: `sacctmgr show assoc user=$USER format=qos`"
    if "time limit" in said:
        return "give a shorter --time; the partition's limit: `scontrol show partition`"
    if "configuration is not available" in said or "generic resource" in said or "gres" in said:
        return "no node has that many GPUs, CPUs or that much memory: --gpus, --cpus, --mem"
    if "array" in said:
        return "fewer jobs in a sweep: --jobs-per mode, fewer --num-chunks"
    return "change the option that sbatch names (`--dry-run` prints the script), or ask the cluster's support"


def check_container(subject: Subject) -> Iterator[Finding]:
    """Looks for what runs containers on this cluster."""
    kind = subject.config.cluster.container
    if not subject.on_slurm or kind is Container.none:
        return
    if kind.value in PROGRAMS:
        if found := next(filter(None, map(shutil.which, PROGRAMS[kind.value])), None):
            yield ok("container", found)
        else:
            yield warn("container", f"{kind.value} is not on PATH here", "see that the nodes have it (--probe)")
        return
    reply = ask(["srun", "--help"])
    if reply.problem is not None:
        yield fail("container", reply.problem, "see the line of srun")
    elif "--container-image" not in reply.out:
        yield fail(
            "container",
            "srun has no --container-image: this cluster has no pyxis",
            "ask the cluster's support for pyxis and enroot, or run without a container (--cluster bare)",
        )
    else:
        yield ok("container", "srun has --container-image (pyxis)")


CHECKS: Sequence[Check] = (
    Check(name="slurm", look=check_commands, limit_s=120.0),
    Check(name="sacct", look=check_accounting),
    Check(name="sbatch --test-only", look=check_submission, limit_s=200.0, needs_no_job=False),
    Check(name="limits", look=check_limits, limit_s=120.0),
    Check(name="container", look=check_container),
)
"""Questions to the cluster, in the order of the screen."""
