"""A place that cannot be written is one line for the user: before the start, in a job, and for temporary files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from trimode.core import files
from trimode.core.errors import USER_ERROR, JobFailed
from trimode.core.files import AppendFile
from trimode.pipeline import __main__ as hydra_command
from trimode.pipeline.console.log import JobLog
from trimode.pipeline.job.run import _record_failure
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.outcome import failure_message
from trimode.pipeline.launch.owner import this_process
from trimode.pipeline.run_folder.failure_record import RESERVED_BYTES, FailureRecord
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.sweep import guarded_sweep, run
from trimode.tests.fakes.file_systems import Mount, fill
from trimode.tests.fakes.specs import job_spec
from trimode.tests.fakes.sweeps import HERE, config_of

pytestmark = pytest.mark.process


def sweep(cwd: Path, out_dir: Path) -> int:
    (cwd / "model").mkdir(exist_ok=True)
    config = config_of("model.path=./model", "cluster=local", "suite=demo", "mode=ar", f"out_dir={out_dir}")
    return guarded_sweep(lambda: run(config, cwd, Launcher(this_process(), f"{HERE}:run_to_the_end")))


def one_line(told: str) -> str:
    assert told.startswith("error: ") and told.count("\n") == 1, told
    return told


def test_a_read_only_folder(tmp_path: Path, mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, mount("size=64k,ro") / "out") == USER_ERROR
    assert "Read-only file system" in one_line(capsys.readouterr().err)


def test_a_full_disk(tmp_path: Path, mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, fill(mount("size=64k")) / "out") == USER_ERROR
    assert "No space left" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_path_that_is_no_folder(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert sweep(tmp_path, tmp_path / name) == USER_ERROR
    one_line(capsys.readouterr().err)


def test_a_folder_that_the_system_does_not_make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path, Path("/proc/nothing/out")) == USER_ERROR
    assert "output folder /proc/nothing/out: No such file or directory; valid: " in one_line(capsys.readouterr().err)


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nothing"])
    assert hydra_command.main() == USER_ERROR
    assert "No usable temporary directory found" in one_line(capsys.readouterr().err)


def test_a_job_whose_disk_is_full_has_a_cause_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = job_spec(tmp_path)
    paths = RunPaths(Path(spec.run_dir))
    paths.run_dir.mkdir()
    record = FailureRecord(paths.failed(spec.index))
    failed = _record_failure(spec, paths, record, OSError(28, "No space left on device", "/out/rows"))
    assert isinstance(failed, JobFailed)
    assert "Traceback" not in capsys.readouterr().err
    assert "Cause: /out/rows: No space left on device" in paths.failed(spec.index).read_text()


def test_a_record_finds_its_space_on_a_disk_that_fills_up(mount: Mount) -> None:
    folder = mount("size=256k")
    record = FailureRecord(folder / "FAILED_group0")
    record.reserve()
    fill(folder)
    record.write("Cause: no space\n" + "x" * 60_000)
    text = (folder / "FAILED_group0").read_text()
    assert text.startswith("Cause: no space\n") and len(text) == RESERVED_BYTES
    assert sorted(path.name for path in folder.iterdir()) == ["FAILED_group0", "fill"]


def test_a_record_on_a_disk_with_space_is_whole(tmp_path: Path) -> None:
    record = FailureRecord(tmp_path / "FAILED_group0")
    record.reserve()
    record.write("x" * 60_000)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("FAILED_group0", 60_000)]


def test_a_line_that_does_not_fit_leaves_nothing(mount: Mount) -> None:
    folder = mount("size=64k")
    rows = AppendFile(folder / "rows")
    rows.append("first\n")
    with pytest.raises(OSError, match=r"No space left.*rows"):
        rows.append("x" * 100_000 + "\n")
    rows.append("second\n")
    rows.close()
    assert (folder / "rows").read_text() == "first\nsecond\n"


def test_a_full_log_stops_nobody(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mount("size=64k")
    with JobLog(folder / "job.log") as log:
        fill(folder)
        print("x" * 10_000)
        print("the last words")
        log.write_line("y" * 10_000)
    assert "the last words" in capsys.readouterr().out


def test_a_job_that_could_not_even_leave_its_record(tmp_path: Path, mount: Mount) -> None:
    spec = job_spec(fill(mount("size=64k")))
    assert failure_message(spec, tmp_path / "log").startswith(f"it left no record and no output ({tmp_path}/log)")
    Path(spec.run_dir).mkdir(exist_ok=True)
    assert failure_message(spec, tmp_path / "log").startswith(f"no space left for {spec.run_dir}")
    assert shutil.disk_usage(spec.run_dir).free < files.LEAST_BYTES
