"""The sweep that measures: the same modes and benchmarks in the same run folders, with a few samples of each."""

from __future__ import annotations

import dataclasses

from trimode.pipeline.config.schema import Config
from trimode.pipeline.spec import JobsPer

SAMPLES = 16
"""Samples per benchmark and mode, where the workers have few slots."""
ROUNDS = 2
"""Samples per slot of the workers: with fewer the batch would not be as full as in the sweep."""


def calibration(config: Config) -> Config:
    """Returns the config of a calibration. Its answers are the sweep's first ones, so none is generated twice."""
    workers = config.balancer.workers or config.cluster.gpus or 1
    samples = max(SAMPLES, ROUNDS * workers * config.balancer.max_num_seqs)
    return dataclasses.replace(
        config,
        limit=samples if config.limit is None else min(config.limit, samples),
        benchmarks=tuple(dataclasses.replace(choice, repeats=1) for choice in config.benchmarks),
        jobs_per=JobsPer.mode,
        num_chunks=1,
    )
