"""Fits the arrays of a submission to the limits of the cluster."""

from __future__ import annotations

from collections.abc import Sequence

from trimode.pipeline.slurm.arrays import by_shape
from trimode.pipeline.slurm.limits import Limits, cluster_limits
from trimode.pipeline.spec import JobSpec

Whose = tuple[str | None, str | None, str | None]
"""Account, partition and QOS, on which the limits depend."""


def fitting_arrays(jobs: Sequence[JobSpec]) -> list[tuple[JobSpec, ...]]:
    """Returns the arrays of jobs that the cluster takes now: none is too long, and all together are not too many."""
    arrays: list[tuple[JobSpec, ...]] = []
    known: dict[Whose, Limits] = {}
    taken: dict[Whose, int] = {}
    for shape in by_shape(jobs):
        resources = shape[0].resources
        whose = (resources.account, resources.partition, dict(resources.sbatch).get("qos"))
        if whose not in known:
            known[whose] = cluster_limits(*whose)
        limits = known[whose]
        each = 1 + resources.num_follow_ups
        free = len(shape) if limits.free is None else max(0, limits.free - taken.get(whose, 0)) // each
        taken[whose] = taken.get(whose, 0) + min(free, len(shape)) * each
        arrays += by_shape(shape[:free], limits.max_array_size)
    return arrays
