"""What a batch script does beside its step where a job has several nodes: a step on each further node joins the server.

The job's own step runs on the first node, where the batch script is. A step that ends while the job runs is started
again: its node, or the server, may be back. A node that dies takes its step along, and no other.
The job asks Slurm to be kept when a node dies. Slurm then also keeps it when the first node dies, with nothing that
could end it. So each further node has one more step, outside of any container, which has the job run again then.
"""

from __future__ import annotations

from trimode.core.nodes import JOIN_FILE, NODES_TOKEN
from trimode.pipeline.spec import ResourceSpec

JOIN_MODULE = "trimode.balancer.join"
"""What the step on a further node runs. It gets the file with the server's address, and the number of its node."""
JOIN_TRIES, JOIN_PAUSE_S = 10, 20
"""How often a node's step is started, and seconds between its end and the next start."""
LOOK_EVERY_S = 15
"""Seconds between two looks of a further node at the first one's state."""


def first_node_options(resources: ResourceSpec) -> str:
    """Returns srun's options that keep the job's own step on the first node, with a space behind; none for one node."""
    if resources.num_nodes == 1:
        return ""
    return '--nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" '


def call_of_join(resources: ResourceSpec) -> list[str]:
    """Returns the lines that start the steps of the further nodes; none for one node."""
    return ['  join_nodes "${!#}"'] if resources.num_nodes > 1 else []


def join_functions(resources: ResourceSpec, step: str) -> list[str]:
    """Returns the shell functions of the further nodes; none for one node.

    Args:
        resources: of the job.
        step: srun's further arguments and the command of a joining step, as shell text.
    """
    if resources.num_nodes == 1:
        return []
    return [
        "join_nodes() {  # a step on each further node; they end with this script",
        f'  export {JOIN_FILE}="$1/server_$SLURM_JOB_ID"',
        f"  export {NODES_TOKEN}=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')",
        f'  rm -f "${JOIN_FILE}"',
        "  local host number=0 joining=",
        '  for host in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do',
        '    [ "$host" != "$SLURMD_NODENAME" ] || continue',
        '    command srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" bash -c "$(declare -f stay_with_first)'
        """; stay_with_first '$SLURM_JOB_ID' '$SLURMD_NODENAME' '$job'" </dev/null >/dev/null 2>&1 &""",
        '    joining="$joining $!"',
        "    number=$((number + 1))",
        '    join_node "$host" "$number" </dev/null &',
        '    joining="$joining $!"',
        "  done",
        f'  trap \'rm -f "${JOIN_FILE}"; kill \'"$joining" EXIT',
        "}",
        "stay_with_first() {  # on a further node: without the first one the job has no batch script",
        "  local left",
        f"  while sleep {LOOK_EVERY_S}; do",
        '    left=$(squeue --noheader --states=RUNNING --jobs="$1" --format=%N 2>/dev/null)',
        '    [ -n "$left" ] && ! scontrol show hostnames "$left" | grep -qx "$2" || continue',
        '    scontrol requeue "$3" || scancel "$3"',
        "  done",
        "}",
        "join_node() {  # again if the step ends while the job runs: its node may be back",
        "  local joined tries=0",
        '  trap \'[ -z "$joined" ] || kill -TERM "$joined"; exit\' TERM',
        "  trap '' USR2",
        f'  while [ "$tries" -lt {JOIN_TRIES} ]; do',
        f'    command srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" {step} "${JOIN_FILE}" "$2" &',
        "    joined=$!",
        '    wait "$joined"',
        f"    tries=$((tries + 1)); sleep {JOIN_PAUSE_S} &",
        "    joined=$!",
        '    wait "$joined"',
        "  done",
        "}",
    ]
