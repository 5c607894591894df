"""Checks of a cluster's limits against the plan: array size, jobs in the queue, time, and what the nodes have."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Sequence

from trimode.core.counted import counted
from trimode.pipeline.launch.dry_run import job_scripts
from trimode.pipeline.launch.finding import Finding, Subject, fail, ok, warn
from trimode.pipeline.slurm.cluster_facts import Node, Partition, keeps_accounts, nodes, partitions, settings
from trimode.pipeline.slurm.commands import Reply, ask
from trimode.pipeline.spec import ResourceSpec


def show(what: str) -> Reply:
    """Returns what scontrol shows: `config`, `partition` or `node`."""
    return ask(["scontrol", *(() if what == "config" else ("-o",)), "show", what])


def check_limits(subject: Subject) -> Iterator[Finding]:
    """Compares what the jobs ask for with what the cluster gives."""
    if not subject.on_slurm:
        return
    if not subject.jobs:
        yield _what_is_there()
        return
    config = show("config")
    if config.problem is not None:
        yield fail("limits", config.problem, "see the lines of the commands")
        return
    known = settings(config.out)
    yield _array_size(subject, known.get("MaxArraySize", ""))
    yield _max_submit(subject, known)
    listed, machines = show("partition"), show("node")
    resources = list(dict.fromkeys(job.resources for job in subject.jobs))
    asked = _chosen(partitions(listed.out), resources[0].partition)
    for reply in (listed, machines):
        if reply.problem is not None:
            yield fail(reply.command[-1], reply.problem, "see the lines of the commands")
    if not asked:
        if listed.problem is None:
            names = ", ".join(item.name for item in partitions(listed.out))
            yield fail(
                "partition", f"got {resources[0].partition or 'none, and there is no default'}", f"valid: {names}"
            )
        return
    yield from (_partition(item, resources) for item in asked)
    if machines.problem is None:
        yield from _machines(asked, nodes(machines.out), resources)


def _what_is_there() -> Finding:
    """The partitions with their nodes, where there is no job to compare with."""
    listed, machines = show("partition"), show("node")
    problem = listed.problem or machines.problem
    if problem is not None:
        return fail("partitions", problem, "see the lines of the commands")
    known = nodes(machines.out)
    parts = []
    for item in partitions(listed.out):
        there = [node for node in known if item.name in node.partitions]
        usable = [node for node in there if node.usable]
        gpus = f", up to {counted(max(node.gpus for node in usable), 'GPU')} each" if usable else ""
        mark = " (default)" if item.is_default else ""
        parts.append(f"{item.name}{mark}: {len(usable)} of {counted(len(there), 'node')} usable{gpus}")
    if not parts:
        return fail("partitions", "there is none", "ask the cluster's support")
    return ok("partitions", "; ".join(parts))


def _chosen(known: Sequence[Partition], names: str | None) -> list[Partition]:
    """Returns the partitions that the jobs name, or the default one."""
    if names is None:
        return [item for item in known if item.is_default]
    return [item for item in known if item.name in names.split(",")]


def _array_size(subject: Subject, text: str) -> Finding:
    largest = max((len(jobs) for jobs, _ in job_scripts(subject.jobs)), default=0)
    if not text.isdigit():
        return ok("MaxArraySize", f"not known; the largest array has {counted(largest, 'job')}")
    limit = int(text)
    if largest > limit:
        return fail(
            "MaxArraySize",
            f"{limit}; the largest array has {counted(largest, 'job')}",
            "fewer jobs in a sweep: --jobs-per mode, fewer --num-chunks",
        )
    return ok("MaxArraySize", f"{limit}; the largest array has {counted(largest, 'job')}")


def _max_submit(subject: Subject, known: dict[str, str]) -> Finding:
    """The least limit that the user's associations and QOS set on jobs in the queue."""
    num_jobs = len(subject.jobs)
    if not keeps_accounts(known):
        most = known.get("MaxJobCount", "")
        return ok("MaxSubmit", f"no accounts, so no limit per user ({counted(num_jobs, 'job')}; {most or '?'} in all)")
    user = getpass.getuser()
    fields = "format=Account,QOS,MaxSubmitJobs,GrpSubmitJobs"
    reply = ask(["sacctmgr", "--noheader", "--parsable2", "show", "assoc", "where", f"user={user}", fields])
    if reply.problem is not None:
        return warn("MaxSubmit", reply.problem, "ask the cluster's support how many jobs you may submit")
    rows = [line.split("|") for line in reply.out.splitlines() if line.count("|") == 3]
    account = subject.config.cluster.account
    mine = [row for row in rows if account is None or row[0] == account]
    if account is not None and not mine:
        names = ", ".join(dict.fromkeys(row[0] for row in rows))
        return fail("MaxSubmit", f"you have no association with account {account}", f"valid: --account {names or '?'}")
    limits = [int(text) for row in mine for text in row[2:] if text.isdigit()]
    if not limits:
        return ok("MaxSubmit", f"no limit ({counted(num_jobs, 'job')})")
    queue = ask(["squeue", "--noheader", "--array", "--me"])
    queued = len(queue.out.splitlines()) if queue.problem is None else 0
    text = f"{min(limits)}; {queued} of yours are in the queue, {num_jobs} would be added"
    if queued + num_jobs > min(limits):
        return warn("MaxSubmit", text, "give the command again when jobs have ended, or --jobs-per mode")
    return ok("MaxSubmit", text)


def _partition(partition: Partition, resources: Sequence[ResourceSpec]) -> Finding:
    """One partition against what jobs ask of it: open, long enough, and a node for each job."""
    longest = max(item.time_limit_min for item in resources)
    limit = partition.max_minutes
    name = f"partition {partition.name}"
    if partition.state != "UP":
        return fail(name, f"its state is {partition.state or 'unknown'}", "give another --partition (`sinfo`)")
    if limit is not None and longest > limit:
        return fail(name, f"MaxTime is {limit} minutes; the jobs ask for {longest}", f"give --time {limit}")
    if partition.max_nodes == 0:
        return fail(name, "MaxNodes is 0", "give another --partition (`sinfo`)")
    wanted = max(item.num_nodes for item in resources)
    if partition.max_nodes is not None and wanted > partition.max_nodes:
        text = f"MaxNodes is {partition.max_nodes}; a job asks for {wanted}"
        return fail(name, text, f"give --nodes {partition.max_nodes}")
    most = "unlimited" if limit is None else f"{limit} minutes"
    count = "unlimited" if partition.max_nodes is None else partition.max_nodes
    return ok(name, f"up; MaxTime {most} (the jobs ask for {longest}), MaxNodes {count}")


def _machines(
    asked: Sequence[Partition], known: Sequence[Node], resources: Sequence[ResourceSpec]
) -> Iterator[Finding]:
    """The nodes of the partitions against what one job asks of a node."""
    names = {item.name for item in asked}
    there = [node for node in known if names & set(node.partitions)]
    usable = [node for node in there if node.usable]
    if not usable:
        where = ", ".join(sorted(names))
        yield fail("nodes", f"none of {len(there)} nodes of {where} is usable", "see why: `sinfo -R`")
        return
    most = max(item.num_nodes for item in resources)
    usable_text = f"{len(usable)} of {len(there)} nodes are usable"
    if most > len(usable):
        yield fail("nodes", f"a job asks for {most} nodes; {usable_text}", f"give --nodes {len(usable)}")
    else:
        yield ok("nodes", usable_text if most == 1 else f"{usable_text}; a job asks for {most}")
    for what, setting, wanted, largest in (
        ("GPUs", "--gpus", max(item.num_gpus for item in resources), max(node.gpus for node in usable)),
        (
            "CPUs",
            "--cpus",
            max(item.cpus_per_task or 1 for item in resources),
            max(node.cpus for node in usable),
        ),
        (
            "GB of memory",
            "--mem",
            max(item.mem_gb or 0 for item in resources),
            max(node.memory_mb for node in usable) // 1000,
        ),
    ):
        if wanted > largest > 0 or (what == "GPUs" and wanted > largest):
            yield fail(what, f"a job asks for {wanted}; the largest node has {largest}", f"give {setting} {largest}")
        elif wanted:
            yield ok(what, f"a job asks for {wanted}; the largest node has {largest}")
