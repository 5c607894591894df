"""What a batch script does around its step: it passes Slurm's warning on, and asks for another run where one is needed.

Slurm warns the batch script alone, before the time limit and before a preemption. The step gets the warning from srun,
and only the job's own process acts on it. The script runs outside of any container, where scontrol is.
"""

from __future__ import annotations

from trimode.core.errors import RUN_AGAIN

WARNING_S = 120
"""Seconds before the time limit at which Slurm warns. It may warn up to a minute earlier."""
LEAST_WARNING_S = 60
"""The shortest warning, for jobs of a few minutes."""


def warning_s(time_limit_min: int) -> int:
    """Returns how many seconds before its time limit a job is warned: a third of it at most, but a minute at least."""
    return max(LEAST_WARNING_S, min(WARNING_S, time_limit_min * 60 // 3))


SRUN_FUNCTION = (
    "srun() {  # runs the step, passes warnings on, and has the job run again if it asks for that",
    '  command srun "$@" &',
    "  local step=$! status",
    "  trap 'kill -USR2 \"$step\"' USR2  # the time limit is near",
    "  trap 'kill -TERM \"$step\"' TERM",
    '  while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal interrupts wait',
    '  wait "$step"',
    "  status=$?",
    f'  if [ "$status" -eq {RUN_AGAIN} ]; then',
    "    trap - TERM USR2",
    '    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script meanwhile',
    '    echo "Slurm did not requeue the job; the same command goes on where it ended" >&2',
    "  fi",
    '  exit "$status"',
    "}",
)
"""Lines of a batch script that replace srun by a function of its name, since submitit writes the line that calls it."""
