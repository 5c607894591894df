"""The NeMo-Skills client against an imitation of its command line, and against the real one where it is installed."""

import gzip
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trimode.balancer.api.prompts import prompt_sha256
from trimode.core.errors import ConfigError, WorkerError
from trimode.core.protocol import Mode, Row
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.client.nemo_skills import run as nemo_skills_client
from trimode.pipeline.client.nemo_skills.files import (
    dataset_override,
    messages_sha256,
    newest_lines,
    reopen_seed,
    write_dataset,
)
from trimode.pipeline.client.nemo_skills.installation import PYTHON, find_installation
from trimode.pipeline.client.nemo_skills.run import overrides, run_task
from trimode.pipeline.data.prompts import chat_messages
from trimode.pipeline.run_folder.nfe import read_nfe_log
from trimode.pipeline.run_folder.paths import RunPaths
from trimode.pipeline.run_folder.rows import read_async, read_output
from trimode.pipeline.spec import ClientKind, JobSpec, TaskSpec
from trimode.tests.fakes.balancer import Body, FakeBalancer, Reply, answer
from trimode.tests.fakes.specs import client_spec, decode_spec, job_spec, task_spec, write_data

pytestmark = pytest.mark.process

KEY = "key-of-the-job"
IMITATION = Path(__file__).parents[3] / "fakes" / "nemo_skills.py"


@pytest.fixture
def imitation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that answers as one with NeMo-Skills would; returns its folder, where it notes its calls."""
    folder = tmp_path / "nemo"
    (folder / "nemo_skills" / "dataset" / "gsm8k").mkdir(parents=True)
    (folder / "nemo_skills" / "dataset" / "gsm8k" / "__init__.py").write_text('METRICS_TYPE = "math"\n')
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{IMITATION}" "{folder}" "$@"\n', encoding="utf-8")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(PYTHON, str(python))
    monkeypatch.delenv("FAKE_NEMO_SKILLS", raising=False)
    return folder


def _logged(spec: JobSpec, paths: RunPaths) -> FakeBalancer:
    """A balancer that notes its answers as the real one does with --request-log."""
    log = paths.request_log(spec.index)
    log.parent.mkdir(parents=True, exist_ok=True)

    def reply(body: Body, _attempt: int) -> Reply:
        status, told = answer(body)
        messages = [{"role": item["role"], "content": item["content"]} for item in body["messages"]]  # type: ignore[attr-defined]
        line = {"request_id": told["id"], "prompt_sha256": prompt_sha256(messages), "seed": body["seed"]}
        line |= {"finish_reasons": ["stop"], "usage": told["usage"]}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return status, told

    return FakeBalancer(reply, api_key=KEY)


def _run(tmp_path: Path, task: TaskSpec, num_rows: int = 5, **changes: Any) -> tuple[RunPaths, list[Body]]:
    write_data(tmp_path / "data", num_rows)
    spec = job_spec(tmp_path, (task,), client=client_spec(kind=ClientKind.nemo_skills), **changes)
    paths = RunPaths(Path(spec.run_dir))
    with _logged(spec, paths) as balancer:
        run_task(spec, task, (balancer.url, KEY), paths)
        return paths, balancer.bodies


def test_overrides_send_the_mode_as_flat_scalars() -> None:
    decode = decode_spec(mode=Mode.dlm, threshold=None, block_length=8, lora=False)
    assert overrides(decode, 7, 99.6) == [
        "++inference.temperature=0.0",
        "++inference.top_p=0.95",
        "++inference.tokens_to_generate=256",
        "++inference.timeout=100",
        "++max_concurrent_requests=7",
        '++inference.extra_body.mode="dlm"',
        "++inference.extra_body.block_length=8",
        "++inference.extra_body.threshold=null",
        "++inference.extra_body.lora=false",
        "++inference.extra_body.enable_thinking=false",
    ]


@pytest.mark.usefixtures("imitation")
def test_a_run_leaves_rows_metrics_and_one_ledger_line_per_sample(tmp_path: Path) -> None:
    paths, bodies = _run(tmp_path, task_spec(limit=4, seeds=(0, 1)))
    assert len(bodies) == 8
    assert {body["mode"] for body in bodies} == {"linear_spec"}
    assert {body["model"] for body in bodies} == {"fake"}
    assert [len(read_output(paths, "gsm8k", seed)) for seed in (0, 1)] == [4, 4]
    records = read_nfe_log(paths.nfe_log(0))
    assert sorted((record.seed, record.sample_id) for record in records) == [(s, i) for s in (0, 1) for i in range(4)]
    rows = {(seed, i): row for seed in (0, 1) for i, row in enumerate(read_output(paths, "gsm8k", seed))}
    assert all(
        rows[each.seed, each.sample_id]["num_generated_tokens"] == each.cost.completion_tokens for each in records
    )
    metrics = json.loads(paths.metrics("gsm8k").read_text(encoding="utf-8"))
    assert metrics["gsm8k"]["pass@1"]["num_entries"] == 4
    assert metrics["nfe_count"] == 8
    assert metrics["tpf"] == pytest.approx(
        sum(each.cost.completion_tokens for each in records) / sum(each.cost.nfe for each in records), abs=1e-4
    )


@pytest.mark.usefixtures("imitation")
def test_a_larger_limit_asks_only_the_rest(tmp_path: Path) -> None:
    _run(tmp_path, task_spec(limit=2))
    paths, bodies = _run(tmp_path, task_spec(limit=5))
    assert len(bodies) == 3
    assert len(read_output(paths, "gsm8k", 0)) == 5
    assert len(read_nfe_log(paths.nfe_log(0))) == 5


@pytest.mark.usefixtures("imitation")
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NEMO_SKILLS", "stop-after:3")
    with pytest.raises(WorkerError, match="status 9"):
        _run(tmp_path, task_spec())
    monkeypatch.delenv("FAKE_NEMO_SKILLS")
    paths, bodies = _run(tmp_path, task_spec())
    assert len(bodies) == 2
    assert len(read_nfe_log(paths.nfe_log(0))) == 5


@pytest.mark.usefixtures("imitation")
def test_rows_with_the_same_prompt_get_a_line_each(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 1) / "gsm8k" / "test.jsonl"
    data.write_text(data.read_text(encoding="utf-8") * 3, encoding="utf-8")
    spec = job_spec(tmp_path, (task_spec(),), client=client_spec(kind=ClientKind.nemo_skills))
    paths = RunPaths(Path(spec.run_dir))
    with _logged(spec, paths) as balancer:
        run_task(spec, spec.tasks[0], (balancer.url, KEY), paths)
    assert [record.sample_id for record in read_nfe_log(paths.nfe_log(0))] == [0, 1, 2]


@pytest.mark.usefixtures("imitation")
def test_a_client_that_leaves_rows_out_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NEMO_SKILLS", "forget-last")
    with pytest.raises(WorkerError, match=r"left \{0: 4\} rows by seed of gsm8k; asked: 5"):
        _run(tmp_path, task_spec())


@pytest.mark.usefixtures("imitation")
def test_a_client_without_metrics_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NEMO_SKILLS", "no-metrics")
    with pytest.raises(WorkerError, match=r"metrics\.json was not written"):
        _run(tmp_path, task_spec())


def test_processes_that_the_client_detaches_are_ended_with_it(
    imitation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NEMO_SKILLS", "leave-child")
    _run(tmp_path, task_spec())
    child = int((imitation / "child").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("imitation")
def test_the_key_is_on_no_command_line_and_in_no_file(tmp_path: Path) -> None:
    paths, _ = _run(tmp_path, task_spec())
    log = (paths.results / "nemo_skills" / "gsm8k" / "client.log").read_text(encoding="utf-8")
    assert "++server.api_key_env_var=TRIMODE_SERVER_KEY" in log
    assert not [path for path in paths.run_dir.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_its_commands_find_the_right_interpreter_first(imitation: Path, tmp_path: Path) -> None:
    _run(tmp_path, task_spec())
    (path, safe_path) = json.loads((imitation / "environment.json").read_text(encoding="utf-8"))
    assert path.split(os.pathsep)[0] == str(imitation)
    assert safe_path is None


@pytest.mark.usefixtures("imitation")
@pytest.mark.parametrize(
    ("version", "words"), [("none", "has none"), ("0.6.1", r"got 0\.6\.1; valid: 0\.7\.0 or newer")]
)
def test_a_missing_or_old_installation_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, words: str) -> None:
    monkeypatch.setenv("FAKE_NEMO_SKILLS", f"version:{version}")
    with pytest.raises(ConfigError, match=words):
        find_installation()


@pytest.mark.usefixtures("imitation")
def test_a_newer_installation_runs_with_a_word_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_NEMO_SKILLS", "version:0.8.0")
    _run(tmp_path, task_spec())
    assert "NeMo-Skills 0.8.0 is newer than 0.7.0" in capsys.readouterr().out


def test_an_interpreter_that_is_not_there_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"client nemo_skills needs NeMo-Skills 0\.7"):
        find_installation()


def test_a_benchmark_the_package_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the installed NeMo-Skills has no gsm8k"):
        write_dataset(load_benchmark("gsm8k"), tmp_path, 1, (tmp_path / "package", tmp_path / "target"))


def test_evalplus_gets_the_same_tasks_as_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mbpp"
    folder.mkdir(parents=True)
    raw = folder / "MbppPlus-v0.2.0.jsonl.gz"
    with gzip.open(raw, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"task_id": f"Mbpp/{index}", "prompt": ""}) + "\n" for index in range(4))
    variables = dataset_override(load_benchmark("mbpp"), tmp_path / "data", 2, tmp_path)
    (path,) = variables.values()
    assert list(variables) == ["MBPP_OVERRIDE_PATH"]
    assert len(Path(path).read_text(encoding="utf-8").splitlines()) == 2


def test_a_finished_output_with_too_few_rows_becomes_an_unfinished_one(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    output = paths.output("gsm8k", 0)
    output.parent.mkdir(parents=True)
    output.write_text('{"a": 0}\n{"a": 1}\n', encoding="utf-8")
    paths.output_done("gsm8k", 0).touch()
    reopen_seed(paths, "gsm8k", 0, 2)
    assert output.exists()
    reopen_seed(paths, "gsm8k", 0, 3)
    assert read_async(paths, "gsm8k", 0) == {0: {"a": 0}, 1: {"a": 1}}
    assert not output.exists()
    assert not paths.output_done("gsm8k", 0).exists()


def test_rows_of_chunks_become_rows_it_goes_on_from(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    chunk = paths.output_async("gsm8k", 0, 1)
    chunk.parent.mkdir(parents=True)
    chunk.write_text('{"a": 5, "_async_position": 5}\n', encoding="utf-8")
    reopen_seed(paths, "gsm8k", 0, 8)
    assert not chunk.exists()
    assert paths.output_async("gsm8k", 0).read_text(encoding="utf-8") == '{"a": 5, "_async_position": 5}\n'


class PassedOnce(list[tuple[str, int]]):
    """Keys that may be passed over once."""

    passes = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        self.passes += 1
        assert self.passes == 1
        return super().__iter__()

    def count(self, _key: object, /) -> int:
        raise AssertionError("a pass over all keys for one of them")


def test_log_lines_are_found_in_one_pass_over_the_rows() -> None:
    keys = PassedOnce([("same", 0), ("other", 0), ("same", 0), ("absent", 0)])
    log: dict[tuple[str, int], list[Row]] = {
        ("same", 0): [{"n": 1}, {"n": 2}, {"n": 3}],
        ("other", 0): [{"n": 4}],
        ("same", 1): [{"n": 5}],
    }
    assert newest_lines(log, keys) == {("same", 0): [{"n": 2}, {"n": 3}], ("other", 0): [{"n": 4}]}


def test_the_hash_is_the_one_the_balancer_logs() -> None:
    benchmark = load_benchmark("gsm8k")
    row = {"problem": "é {1} \u2028"}
    assert messages_sha256(benchmark, row) == prompt_sha256(chat_messages(benchmark, row))


@pytest.mark.nemo_skills
def test_the_real_client_runs_and_goes_on(tmp_path: Path) -> None:
    """Needs NeMo-Skills 0.7, its interpreter named by TRIMODE_NEMO_SKILLS_PYTHON."""
    try:
        find_installation()
    except ConfigError as error:
        pytest.skip(str(error))
    paths, bodies = _run(tmp_path, task_spec(limit=3, seeds=(0, 1)))
    assert len(bodies) == 6
    body = bodies[0]
    assert (body["mode"], body["block_length"], body["lora"], body["max_tokens"]) == ("linear_spec", 32, False, 256)
    rows = read_output(paths, "gsm8k", 1)
    assert {"generation", "predicted_answer", "symbolic_correct", "num_generated_tokens"} <= rows[0].keys()
    metrics = json.loads(paths.metrics("gsm8k").read_text(encoding="utf-8"))
    assert metrics["gsm8k"]["pass@1[avg-of-2]"]["num_entries"] == 3
    assert metrics["nfe_count"] == 6
    _, more = _run(tmp_path, task_spec(limit=4, seeds=(0, 1)))
    assert len(more) == 2
    assert len(read_nfe_log(paths.nfe_log(0))) == 8
    assert not nemo_skills_client._marked(str(paths.results / "nemo_skills" / "gsm8k"))
