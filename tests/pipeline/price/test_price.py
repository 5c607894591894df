"""The price of a sweep: what is read of earlier runs, how it scales, what is said where nothing is measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from trimode.core.files import write_json_atomic
from trimode.pipeline.launch.call import Launcher
from trimode.pipeline.launch.owner import this_process
from trimode.pipeline.plan.rounds import continue_or_start
from trimode.pipeline.price.calibrate import calibration, longer
from trimode.pipeline.price.estimate import JobPrice, price
from trimode.pipeline.price.measured import measured_runs, model_shape
from trimode.pipeline.price.precision import half_width
from trimode.pipeline.price.sweep_price import SweepPrice, sweep_price
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.spec import Device, JobSpec
from trimode.pipeline.sweep import run
from trimode.tests.fakes.sweeps import HERE, config_of, jobs_of, local_jobs

TASKS = {"demo-math": {"samples": 16, "worked_s": 32.0}, "demo-mcq": {"samples": 16, "worked_s": 16.0}}
TIMES = {"startup_s": 20.0, "serving_s": 60.0, "finish_s": 2.0, "tasks": TASKS}
"""48 s of work in 60 s of one worker: 0.8 busy; 2 s and 1 s per sample."""
CPU = ("mode=ar", "benchmarks=[demo-math,demo-mcq]", "balancer.device=cpu")


def record(job: JobSpec, times: object = TIMES, **changes: object) -> None:
    """Writes the manifest of a run."""
    run = {"start": "2026-01-01T00:00:00+00:00", "devices": ["cpu"], "max_num_seqs": 1, "measured": times} | changes
    config = {"model": {"path": job.model.path}}
    manifest = {"identity": job.identity, "jobs": {"0": {"config": config, "runs": [run]}}}
    write_json_atomic(RunPaths(Path(job.run_dir)).manifest, manifest)


def priced(cwd: Path, job: JobSpec, **left: int) -> JobPrice | str:
    return price(job, {name.replace("_", "-"): count for name, count in left.items()}, measured_runs(cwd / "out"))


def known(cwd: Path, job: JobSpec, **left: int) -> JobPrice:
    found = priced(cwd, job, **left)
    assert isinstance(found, JobPrice), found
    return found


def test_seconds_follow_from_the_work_of_samples_and_the_busy_share(tmp_path: Path) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    record(job)
    found = known(tmp_path, job, demo_math=100, demo_mcq=50)
    assert (found.startup_s, found.finish_s) == (20.0, 2.0)
    assert found.serving_s == pytest.approx((100 * 2 + 50 * 1) / 0.8)
    assert found.num_measured == 32 and found.guessed == () and found.gpu_hours == 0.0


def test_more_workers_share_the_work_and_hold_their_gpus(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    gpus = ("model.path=./model", "cluster=bare", "out_dir=out", "mode=ar", "benchmarks=demo-math", "cluster.gpus=4")
    [job] = jobs_of(tmp_path, *gpus)
    record(job, devices=["cuda:0", "cuda:1"], times=TIMES | {"serving_s": 30.0})  # 0.8 of two workers
    found = known(tmp_path, job, demo_math=160)
    assert found.serving_s == pytest.approx(160 * 2 / 0.8 / 4)
    assert found.gpu_hours == pytest.approx(4 * (20 + 100 + 2) / 3600)


def test_a_benchmark_that_nothing_measured_has_the_mean_of_the_others(tmp_path: Path) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    record(job)
    found = known(tmp_path, job, demo_if=10)
    assert found.guessed == ("demo-if",) and found.serving_s == pytest.approx(10 * 1.5 / 0.8)


def test_another_checkpoint_of_the_same_size_has_the_same_speed(tmp_path: Path) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    other = tmp_path / "other"
    for folder, size in ((tmp_path / "model", 64), (other, 64)):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"hidden_size": size, "num_hidden_layers": 2}))
    model_shape.cache_clear()
    record(job)
    twin = dataclasses.replace(
        job, model=dataclasses.replace(job.model, path=str(other)), identity={**job.identity, "weights": "else"}
    )
    assert known(tmp_path, twin, demo_math=8).serving_s == pytest.approx(8 * 2 / 0.8)
    (other / "config.json").write_text(json.dumps({"hidden_size": 128, "num_hidden_layers": 2}))
    model_shape.cache_clear()
    assert priced(tmp_path, twin, demo_math=8) == "nothing is measured of this mode and model"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_num_seqs": 8}, "measured with batch size 8 only"),
        ({"devices": ["cuda:0"]}, "nothing is measured"),
        ({"times": None}, "nothing is measured"),
        ({"times": {"startup_s": 1}}, "nothing is measured"),
        ({"times": TIMES | {"tasks": {"demo-math": {"samples": "x"}}}}, "nothing is measured"),
        ({"times": TIMES | {"serving_s": float("nan")}}, "nothing is measured"),
        ({"devices": None}, "nothing is measured"),
    ],
)
def test_what_does_not_count(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    record(job, **changes)
    found = priced(tmp_path, job, demo_math=8)
    assert isinstance(found, str) and reason in found


def test_a_damaged_manifest_hides_no_other(tmp_path: Path) -> None:
    [ar, dlm] = local_jobs(tmp_path, *CPU, "mode=[ar,dlm]")
    record(ar)
    damaged = RunPaths(Path(dlm.run_dir)).manifest
    for text in ("{", "[]", '{"jobs": {"0": 3}, "identity": {}}', '{"jobs": {"0": {"runs": [3]}}, "identity": {}}'):
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_text(text)
        assert len(measured_runs(tmp_path / "out")) == 1


def test_a_run_that_goes_on_has_what_it_last_wrote_down(tmp_path: Path) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    start = 1767225600.0
    record(job, times=None)
    task = {"total": 100, "scored": 16, "worked_s": 32.0, "asked_at": start + 20, "answered_at": start + 60}
    write_json_atomic(RunPaths(Path(job.run_dir)).progress(0), {"demo-math": task})
    found = known(tmp_path, job, demo_math=10)
    assert (found.startup_s, found.serving_s) == (20.0, pytest.approx(10 * 2 / 0.8))
    task["asked_at"] = start - 1  # of an earlier run
    write_json_atomic(RunPaths(Path(job.run_dir)).progress(0), {"demo-math": task})
    assert isinstance(priced(tmp_path, job, demo_math=10), str)


def swept(cwd: Path, *overrides: str) -> SweepPrice:
    found = sweep_price(continue_or_start(local_jobs(cwd, *CPU, *overrides), fresh=False), cwd / "out")
    assert found is not None
    return found


def test_the_lines_of_a_sweep_that_is_measured_in_part(tmp_path: Path) -> None:
    [ar, _] = local_jobs(tmp_path, *CPU, "mode=[ar,dlm]")
    nothing = swept(tmp_path, "mode=[ar,dlm]").lines()
    assert nothing[1].startswith("  ar, dlm: nothing is measured of this mode and model; to measure: ")
    record(ar)
    found = swept(tmp_path, "mode=[ar,dlm]", "benchmarks='demo-math:2,demo-mcq'", "cluster.time_limit=10")
    text = "\n".join(found.lines())
    # 400 samples of 2 s and 200 of 1 s at 0.8
    assert found.lines()[2].split("  ")[1] == "ar"
    assert found.lines()[2].split() == [
        "ar",
        "600",
        "20s",
        "20m",
        "50s",
        "21m",
        "12s",
        "-",
        "32",
        "samples,",
        "1m",
        "0s",
    ]
    assert "in all (1 of 2 jobs): 21m 12s one after another; no GPUs" in text
    assert "  dlm: nothing is measured" in text
    assert "ar: its time limit is 10m 0s: about 3 runs" in text
    assert "demo-math: +- 6.9 points (200 problems, 2 repeats)" in text and "repeats of a problem agree" in text
    rows = found.to_json()["jobs"]
    assert isinstance(rows, list)
    assert (rows[0]["wall_s"], rows[1]["wall_s"]) == (1272.0, None)


def test_a_time_limit_that_the_start_up_fills(tmp_path: Path) -> None:
    [ar] = local_jobs(tmp_path, *CPU)
    record(ar, times=TIMES | {"startup_s": 70.0})
    text = "\n".join(swept(tmp_path, "cluster.time_limit=1").lines())
    assert "ar: its time limit is shorter than its start-up" in text


def test_the_half_width_is_that_of_the_reports_interval() -> None:
    assert half_width(200, 1, True) == half_width(200, 4, True) == pytest.approx(0.069, abs=0.0005)
    assert half_width(200, 4, False) < 0.75 * half_width(200, 1, False)
    assert half_width(30, 1, True) > 2 * half_width(200, 1, True)


def test_a_calibration_is_the_first_samples_of_the_same_runs(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    flags = ("model.path=./model", "cluster=local", "mode=ar", "out_dir=out", "benchmarks=demo-math:4", "num_chunks=3")
    config = config_of(*flags)
    small = calibration(config)
    assert (small.limit, small.num_chunks, small.benchmarks[0].repeats) == (16, 1, 1)
    assert calibration(config_of(*flags, "limit=5")).limit == 5
    assert calibration(config_of(*flags, "balancer.max_num_seqs=16", "cluster.gpus=4")).limit == 128
    whole, part = jobs_of(tmp_path, *flags)[0], jobs_of(tmp_path, *flags, "limit=16", "num_chunks=1")[0]
    assert whole.run_dir == part.run_dir


def test_a_short_calibration_has_more_samples_the_next_time(tmp_path: Path) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    config = calibration(config_of("model.path=./model", "cluster=local", "out_dir=out", *CPU))
    assert longer(config, None, [job], measured_runs(tmp_path / "out")).limit == 16
    record(job, times=TIMES | {"serving_s": 2.0})
    assert longer(config, None, [job], measured_runs(tmp_path / "out")).limit == 160
    assert longer(config, 100, [job], measured_runs(tmp_path / "out")).limit == 100
    assert "measured in 2.0 s only, so its time is a guess; --calibrate again" in "\n".join(swept(tmp_path).lines())
    record(job)
    assert longer(config, None, [job], measured_runs(tmp_path / "out")).limit == 16


@pytest.mark.process
def test_a_local_calibration_that_is_over_too_soon_runs_again_and_longer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    config = config_of(
        "model.path=./model", "cluster=local", "out_dir=out", "benchmarks=demo-math:3", "mode=ar", CPU[2]
    )
    launcher = Launcher(this_process(), f"{HERE}:measure_briefly")
    assert run(dataclasses.replace(config, calibrate=True), tmp_path, launcher) == 0
    [plan] = (tmp_path / "out").glob("*/hf_base/eval_*/plan.json")
    [task] = json.loads(plan.read_text())["jobs"][0]["tasks"]
    assert (task["limit"], task["repeats"]) == (160, 1)  # 16 samples took 2 of 20 seconds
    assert sum(len(made.tasks) for made in measured_runs(tmp_path / "out")) == 1


def test_a_cpu_job_takes_no_speed_of_a_gpu(tmp_path: Path) -> None:
    [job] = local_jobs(tmp_path, *CPU)
    record(job)
    on_gpu = dataclasses.replace(job, resources=dataclasses.replace(job.resources, device=Device.cuda))
    assert isinstance(priced(tmp_path, on_gpu, demo_math=8), str)
