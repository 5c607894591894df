"""One run of some tasks as the manifest records it, from its start to how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trimode.core.errors import Stopped
from trimode.pipeline.client.failures import name_failures
from trimode.pipeline.client.metrics_file import UnansweredError
from trimode.pipeline.client.tasks import LoadedTask
from trimode.pipeline.console.progress import read_snapshot
from trimode.pipeline.run_folder.lease import LeaseLost
from trimode.pipeline.run_folder.manifest import Manifest
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.provenance import data_sha256
from trimode.pipeline.spec import JobSpec


@contextmanager
def recorded_run(spec: JobSpec, paths: RunPaths, loaded: Sequence[LoadedTask]) -> Iterator[Manifest]:
    """Opens the manifest before the block and closes it behind: `completed`, `interrupted` by a signal, or `failed`.

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
    before = _num_finished(spec, paths)
    try:
        yield manifest
        name_failures(spec, paths)
    except LeaseLost:
        raise  # the last entry is another run's
    except BaseException as error:
        status, cause = "interrupted" if isinstance(error, Stopped) else "failed", str(error) or type(error).__name__
        if isinstance(error, UnansweredError):
            name_failures(spec, paths)
        manifest.close(status, new_samples=max(0, _num_finished(spec, paths) - before), cause=cause)
        raise
    manifest.close("completed", new_samples=max(0, _num_finished(spec, paths) - before))


def _num_finished(spec: JobSpec, paths: RunPaths) -> int:
    """Samples that are finished, as the job last wrote it down."""
    return sum(task.done for task in read_snapshot(paths.progress(spec.index)).values())
