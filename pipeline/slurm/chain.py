"""Chains: where a job may not be requeued, further arrays wait until the ones before them have ended without success.

All arrays of a chain run the same calls. A job of a later array ends at once if its work is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimode.pipeline.spec import LINK


def follow_up(parameters: Mapping[str, object], earlier: Sequence[str]) -> dict[str, object]:
    """Returns submitit's parameters of the array that follows `earlier`, the ids of the chain's arrays in order.

    It waits for the failure of every one of them. So Slurm removes all that follow once one of them has succeeded: a
    removed array counts as failed, and would let the next one start if that waited for it alone. Where a user has
    cancelled a job, the next array does not go on with it.
    """
    options, setup = parameters["additional_parameters"], parameters["setup"]
    assert isinstance(options, dict) and isinstance(setup, list)
    before = f"{earlier[-1]}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
    return {
        **parameters,
        "additional_parameters": options
        | {"dependency": f"afternotok:{':'.join(earlier)}", "kill-on-invalid-dep": "yes"},
        "setup": [
            f'case " $(scontrol --oneliner show job "{before}" 2>/dev/null) " in *" JobState=CANCELLED "*)',
            f'  echo "{before} was cancelled, so this job does not go on with it" >&2; exit 0 ;;',
            "esac",
            f"export {LINK}={len(earlier)}",
            *setup,
        ],
    }
