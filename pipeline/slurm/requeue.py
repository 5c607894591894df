"""What a batch script does around its step: it passes Slurm's warning on, and has the job go on where that is possible.

Slurm warns the batch script alone, before the time limit and before a preemption. The step gets the warning from srun,
and only the job's own process acts on it. The script runs outside of any container, where scontrol is.
A step that was killed, or whose job lost its server, is started again in the same allocation and goes on there. So is
one that was stopped because SIGTERM came to the script, but neither from scancel nor from a preemption.
"""

from __future__ import annotations

import signal
from pathlib import Path

from trimode.core.errors import RESTARTS, RUN_AGAIN, START_AGAIN, TERMINATED
from trimode.pipeline.slurm.nodes import call_of_join, first_node_options, join_functions
from trimode.pipeline.spec import LINK, Container, ResourceSpec

WARNING_S = 120
"""Seconds before the time limit at which Slurm warns. It may warn up to a minute earlier."""
LEAST_WARNING_S = 60
"""The shortest warning, for jobs of a few minutes."""
LAST_CALL_S = 25
"""Seconds before the time limit at which the batch script waits no longer for a step whose job has ended: pyxis removes
the container within the step, which may take minutes on a slow disk."""
EARLY_WARNING = "early=; trap 'early=USR2' USR2; trap 'early=TERM' TERM  # until srun is there to get it"
"""First line of a batch script: a signal that comes before the step is started must not end the script."""


STEP_RESTARTS = 3
"""How often a batch script starts its step again."""
LOOKS, PAUSE_S = 20, 2
"""How often a batch script looks whether a killed step has left the devices, and seconds between two looks."""


def warning_s(time_limit_min: int) -> int:
    """Returns how many seconds before its time limit a job is warned: a third of it at most, but a minute at least."""
    return max(LEAST_WARNING_S, min(WARNING_S, time_limit_min * 60 // 3))


def wish_of(folder: str | Path, job_id: str) -> Path:
    """Returns the file of an array's folder by which a job asks for another run before its step has ended."""
    return Path(folder) / f"again_{job_id}"


def srun_function(resources: ResourceSpec, join_step: str = "") -> list[str]:
    """Returns the lines of a batch script that replace srun by a function of its name.

    submitit writes the line that calls it. Its last argument is the array's folder, where the job leaves its wish.
    `join_step`: what a step of a further node runs (`nodes.join_functions`).
    """
    last_call_s = max(0, resources.time_limit_min * 60 - LAST_CALL_S)
    died_of_warning = 128 + signal.SIGUSR2
    return [
        # the id of an array's last job stands for the whole array in scontrol's eyes
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} job=${job:-$SLURM_JOB_ID}",
        "srun() {  # runs the step, passes signals on, starts it again if it was killed, has the job run again",
        '  local step status timer caught= overlap= restarts=0 wish="${!#}/again_$SLURM_JOB_ID"',
        '  rm -f "$wish"; [ "$early" != TERM ] || ! goes_on || early=',
        *(_REMOVE_CONTAINERS if resources.container is Container.pyxis else ()),
        '  [ -z "$early" ] || exit_early',
        *call_of_join(resources),
        "  while :; do",
        f'    {RESTARTS}=$restarts command srun $overlap {first_node_options(resources)}"$@" &',
        "    step=$!",
        "    last_call &",
        "    timer=$!",
        "    trap 'caught=USR2; warn_in_time' USR2  # the time limit is near",
        "    trap 'caught=TERM; kill -TERM \"$step\"' TERM",
        '    [ -z "$early" ] || kill "-$early" "$step"',
        '    while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal interrupts wait',
        '    wait "$step"',
        "    status=$?",
        '    kill "$timer" 2>/dev/null',
        f'    [ "$status" -ne {died_of_warning} ] || exit_early  # the warning came before the job could act on it',
        f'    [ "$status" -ne {TERMINATED} ] || ! is_preempted || run_again',
        f'    [ "$status" -ne {RUN_AGAIN} ] || run_again',
        f'    [ "$status" -eq {START_AGAIN} ] || [ "$status" -gt 128 ] || break',
        '    [ "$caught" != USR2 ] || exit_early  # it died after the warning',
        '    [ "$caught$early" != TERM ] || ! goes_on || caught= early=',
        f'    [ -z "$caught$early" ] && [ "$restarts" -lt {STEP_RESTARTS} ] || break',
        "    restarts=$((restarts + 1)); wait_for_step",
        f'    echo "the step ended with status $status and is started again ($restarts/{STEP_RESTARTS})" >&2',
        "  done",
        '  exit "$status"',
        "}",
        *_warn_in_time(warning_s(resources.time_limit_min)),
        "last_call() {  # the job has ended and its step has not: it would run into the time limit",
        f'  while [ "$SECONDS" -lt {last_call_s} ]; do kill -0 $$ 2>/dev/null || return; sleep 2; done',
        '  [ ! -e "$wish" ] || ' + ("kill -KILL $$" if resources.num_follow_ups else 'scontrol requeue "$job"'),
        "}",
        *(*_WHY_SIGTERM, *_wait_for_step()),
        *join_functions(resources, join_step),
        "exit_early() {",
        f'  [ "$early" != TERM ] || exit {TERMINATED}',
        f'  [ "$((${{SLURM_RESTART_COUNT:-0}} + ${{{LINK}:-0}}))" -ge {resources.max_requeues} ] || run_again',
        '  echo "the time limit ended this run before the job had begun, and it is not requeued again" >&2',
        "  exit 1",
        "}",
        "run_again() {",
        "  trap - TERM USR2",
        *_ways(resources),
        f"  exit {RUN_AGAIN}",
        "}",
    ]


def _ways(resources: ResourceSpec) -> list[str]:
    """Returns the lines that have the job run again, without the one that ends the script."""
    if resources.num_follow_ups:
        return ['  echo "the next array of the chain goes on" >&2']
    return [
        '  scontrol requeue "$job" && sleep 60  # Slurm ends this script meanwhile',
        '  echo "Slurm did not requeue the job; the same command goes on where it ended" >&2',
    ]


def _warn_in_time(seconds: int) -> list[str]:
    """Returns a shell function that warns the step so many seconds before the time limit. Slurm may warn earlier."""
    return [
        "warn_in_time() {",
        "  local end left",
        '  end=$(date -d "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e 2>/dev/null)" +%s 2>/dev/null)',
        f"  left=$((${{end:-0}} - $(date +%s) - {seconds}))",
        '  [ "$left" -gt 0 ] && [ "$left" -le 60 ] || left=0',
        '  { sleep "$left"; kill -USR2 "$step"; } &',
        "}",
    ]


def _wait_for_step() -> list[str]:
    """Returns a shell function that waits until the step before has left this node.

    A step stays for ever if its srun was killed after Slurm had given it the devices and before it was started there.
    The next one then shares them with it; otherwise it would wait for them until the time limit.
    """
    return [
        "wait_for_step() {  # or share the devices with what is left of it",
        f"  local look; for look in {{1..{LOOKS}}}; do",
        '    squeue --noheader --steps --jobs="$SLURM_JOB_ID" --nodelist="$SLURMD_NODENAME" --format=%i 2>/dev/null |',
        "      grep -q '\\.[0-9]*$' || return",
        f"    sleep {PAUSE_S}",
        "  done",
        "  overlap=--overlap",
        "}",
    ]


_WHY_SIGTERM = (
    "goes_on() {  # although SIGTERM came: Slurm neither ends nor preempts the job, so it was a signal by hand",
    '  case " $(scontrol --oneliner show job "$job" 2>/dev/null) " in',
    '    *" PreemptTime="[0-9]*) return 1 ;;',
    '    *" JobState=RUNNING "*) return 0 ;;',
    "  esac",
    "  return 1",
    "}",
    "is_preempted() {  # and Slurm leaves it to the job to run again: it requeues nothing that ends by itself",
    '  case " $(scontrol --oneliner show job "$job" 2>/dev/null) " in',
    '    *" JobState=RUNNING "*" Requeue=1 "*" PreemptTime="[0-9]*) return 0 ;;',
    "  esac",
    "  return 1",
    "}",
)
"""A preemption with a grace time sends SIGTERM to the step while the job counts as running. Without a grace time, or at
its end, Slurm has requeued or cancelled the job before the step ends. Then, and after scancel, the job's state is no
longer RUNNING, and the script leaves the job alone."""
_REMOVE_CONTAINERS = (
    "  (  # of a run that was cut off: pyxis makes no container over one that is there, and takes no settings of a job",
    '    unset "${!ENROOT_@}"',
    '    for left in $(enroot list 2>/dev/null | grep "^pyxis_$SLURM_JOB_ID\\."); do',
    '      enroot remove -f "$left" </dev/null >/dev/null 2>&1',
    "    done",
    "  )",
)
