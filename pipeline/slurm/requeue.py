"""What a batch script does around its step: it passes Slurm's warning on, and has the job go on where that is possible.

Slurm warns the batch script alone, before the time limit and before a preemption. The step gets the warning from srun,
and only the job's own process acts on it. The script runs outside of any container, where scontrol is.

A step that was killed, or that lost its server, is started again in the same allocation. It goes on where it ended.
"""

from __future__ import annotations

from trimode.core.errors import RESTARTS, RUN_AGAIN, START_AGAIN

WARNING_S = 120
"""Seconds before the time limit at which Slurm warns. It may warn up to a minute earlier."""
LEAST_WARNING_S = 60
"""The shortest warning, for jobs of a few minutes."""


STEP_RESTARTS = 3
"""How often a batch script starts its step again."""


def warning_s(time_limit_min: int) -> int:
    """Returns how many seconds before its time limit a job is warned: a third of it at most, but a minute at least."""
    return max(LEAST_WARNING_S, min(WARNING_S, time_limit_min * 60 // 3))


SRUN_FUNCTION = (
    "srun() {  # runs the step, passes warnings on, starts it again if it was killed, and has the job run again",
    "  local step status restarts=0 signal=",
    "  trap 'signal=USR2; kill -USR2 \"$step\"' USR2  # the time limit is near",
    "  trap 'signal=TERM; kill -TERM \"$step\"' TERM  # the job is being cancelled",
    "  while :; do",
    f'    {RESTARTS}=$restarts command srun "$@" &',
    "    step=$!",
    '    while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal interrupts wait',
    '    wait "$step"',
    "    status=$?",
    f'    [ "$status" -eq {START_AGAIN} ] || [ "$status" -gt 128 ] || break',
    f'    [ "$signal" != USR2 ] || status={RUN_AGAIN}',
    f'    [ -z "$signal" ] && [ "$restarts" -lt {STEP_RESTARTS} ] || break',
    "    restarts=$((restarts + 1))",
    f'    echo "the step ended with status $status and is started again ($restarts/{STEP_RESTARTS})" >&2',
    "  done",
    f'  if [ "$status" -eq {RUN_AGAIN} ]; then',
    "    trap - TERM USR2",
    '    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script meanwhile',
    '    echo "Slurm did not requeue the job; the same command goes on where it ended" >&2',
    "  fi",
    '  exit "$status"',
    "}",
)
"""Lines of a batch script that replace srun by a function of its name, since submitit writes the line that calls it."""
