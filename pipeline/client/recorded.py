"""One run of some tasks as the manifest records it, from its start to how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trimode.pipeline.client.failures import name_failures
from trimode.pipeline.client.metrics_file import UnansweredError
from trimode.pipeline.client.tasks import LoadedTask
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256
from trimode.pipeline.spec import JobSpec


@contextmanager
def recorded_run(spec: JobSpec, paths: RunPaths, loaded: Sequence[LoadedTask]) -> Iterator[Manifest]:
    """Opens the manifest before the block and closes it behind: `completed`, or `failed` if the block raises.

    Samples without an answer are named when the block completes or raises UnansweredError. Raises ConfigError if the
    folder holds results of other prompts or data.
    """
    manifest = Manifest(spec, paths)
    manifest.open(
        prompts={item.benchmark.name: item.benchmark.prompt_sha256 for item in loaded},
        data={
            item.benchmark.name: {"sha256": data_sha256(item.all_rows), "num_rows": len(item.all_rows)}
            for item in loaded
        },
    )
    status = "failed"
    try:
        yield manifest
        name_failures(spec, paths)
        status = "completed"
    except UnansweredError:
        name_failures(spec, paths)
        raise
    finally:
        manifest.close(status)
