"""The sweep that measures: the same modes and benchmarks in the same run folders, with a few samples of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from trimode.pipeline.config.schema import Config
from trimode.pipeline.price.measured import MeasuredRun, plain
from trimode.pipeline.spec import JobSpec, JobsPer

SAMPLES = 16
"""Samples per benchmark and mode, where the workers have few slots."""
ROUNDS = 2
"""Samples per slot of the workers: with fewer the batch would not be as full as in the sweep."""

ENOUGH_S = 20.0
"""Seconds of serving that a rate is taken from. In less the first requests and the start of scorers weigh too much."""


def calibration(config: Config) -> Config:
    """Returns the config of a calibration. Its answers are the sweep's first ones, so none is generated twice."""
    workers = (config.balancer.workers or config.cluster.gpus or 1) * config.cluster.nodes
    samples = max(SAMPLES, ROUNDS * workers * config.balancer.max_num_seqs)
    return dataclasses.replace(
        config,
        limit=samples if config.limit is None else min(config.limit, samples),
        benchmarks=tuple(dataclasses.replace(choice, repeats=1) for choice in config.benchmarks),
        jobs_per=JobsPer.mode,
        num_chunks=1,
    )


def longer(config: Config, most: int | None, jobs: Sequence[JobSpec], runs: Sequence[MeasuredRun]) -> Config:
    """Returns a calibration with so many samples that each job serves for ENOUGH_S seconds, by what was measured.

    It stays as it is where nothing is measured yet, or enough. `most`: samples per benchmark that the sweep has.
    """
    assert config.limit is not None
    seconds = [served_s(job, runs) for job in jobs]
    least = min((value for value in seconds if value > 0), default=ENOUGH_S)
    if least >= ENOUGH_S:
        return config
    samples = math.ceil(config.limit * ENOUGH_S / least)
    return dataclasses.replace(config, limit=samples if most is None else min(most, samples))


def served_s(job: JobSpec, runs: Sequence[MeasuredRun]) -> float:
    """Returns the seconds that a job's workers have served in all of its measured runs."""
    identity = plain(job.identity)
    return sum(run.serving_s for run in runs if run.identity == identity and run.slots == job.client.max_num_seqs)
