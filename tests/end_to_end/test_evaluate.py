"""evaluate.py with a stand-in for the worker: the plan, scoring, files and resume are the real ones."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trimode.core.delta import OnDelta
from trimode.core.errors import ConfigError, GenerationError, WorkerError
from trimode.core.project import PROJECT_DIR
from trimode.core.protocol import Generation, Quantization, WorkerSettings
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data import hub
from trimode.pipeline.in_process.evaluate import worker_settings
from trimode.pipeline.in_process.flags import overrides, parse
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.survey import survey
from trimode.tests.fakes.specs import job_spec
from trimode.tests.fakes.sweeps import config_of
from trimode.tests.fakes.worker import FakeWorker

pytestmark = pytest.mark.process

SCRIPT = PROJECT_DIR / "evaluate.py"
ROWS = [{"problem": f"What is {index} + {index}?", "expected_answer": 2 * index} for index in range(6)]


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


evaluate = _load_script()


class Adder(FakeWorker):
    """Adds, except 3 + 3; remembers what it was asked, and may fail from the n-th question on."""

    def __init__(
        self, settings: WorkerSettings, fail_from: int | None = None, refuse: str | tuple[str, ...] = ""
    ) -> None:
        super().__init__(settings)
        self.asked: list[Mapping[str, Any]] = []
        self.closed = False
        self._fail_from = fail_from
        self._refuse = refuse

    async def generate(self, fields: Mapping[str, Any], on_delta: OnDelta | None = None) -> Generation:  # noqa: ARG002
        self.asked.append(fields)
        if self._fail_from is not None and len(self.asked) > self._fail_from:
            raise WorkerError("the device is lost")
        question = fields["messages"][0]["content"].rpartition("What is ")[2]
        if self._refuse and question.startswith(self._refuse):
            raise GenerationError("context: too long")
        number = int(question.partition(" ")[0])  # a ValueError for what is no question
        reply = await super().generate(fields)
        return dataclasses.replace(reply, text=rf"\boxed{{{0 if number == 3 else 2 * number}}}")

    def close(self) -> None:
        self.closed = True


class Bench:
    """A folder with a model, six rows of gsm8k, and a way to call the script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[Adder] = []
        (folder / "model").mkdir()
        data = folder / "data" / "gsm8k"
        data.mkdir(parents=True)
        (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    def run(self, *flags: str, **faults: Any) -> int:
        def make_worker(settings: WorkerSettings) -> Adder:
            self.workers.append(Adder(settings, **faults))
            return self.workers[-1]

        fixed = ("--model", self.folder / "model", "--out-dir", self.folder / "out", "--device", "cpu")
        given = () if "--data-dir" in flags else ("--data-dir", self.folder / "data")
        code: int = evaluate.main([*map(str, (*fixed, *given)), *flags], make_worker)
        return code

    def samples(self) -> list[dict[str, Any]]:
        (path,) = self.folder.glob("out/*/hf_base/*/results/eval-results/gsm8k/output-rs0.jsonl")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_prints_progress_and_summary_and_writes_samples_and_json(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    output = bench.folder / "result.json"
    assert bench.run("--mode", "ar", "--print-every", "4", "--output", str(output)) == 0
    printed = capsys.readouterr().out
    assert "=== gsm8k: 6 samples, mode ar" in printed
    assert "\n[4/6] acc=" in printed
    assert "\n[6/6] acc=83.33% avg_tok=" in printed
    assert "✓ gsm8k: acc=83.33% (6 samples)" in printed
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["args"]["mode"] == "ar"
    (result,) = written["results"]
    assert result["num_entries"] == 6
    assert result["accuracy"] == pytest.approx(83.3333)
    assert result["avg_nfe"] == 2.0
    assert result["tpf"] == pytest.approx(result["avg_tokens"] / 2, abs=0.01)
    assert [row["symbolic_correct"] for row in bench.samples()] == [True, True, True, False, True, True]
    assert bench.workers[0].closed


def test_a_second_call_runs_only_what_is_new(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("--limit", "4") == 0
    assert bench.run() == 0
    assert [len(worker.asked) for worker in bench.workers] == [4, 2]
    assert "6 samples, 4 finished earlier" in capsys.readouterr().out
    assert len(bench.samples()) == 6


def test_a_finished_call_again_loads_no_model(bench: Bench) -> None:
    assert bench.run() == 0
    assert bench.run("--limit", "2") == 0
    assert len(bench.workers) == 1


def test_fresh_starts_over_in_a_new_folder(bench: Bench) -> None:
    assert bench.run() == 0
    assert bench.run("--fresh") == 0
    assert [len(worker.asked) for worker in bench.workers] == [6, 6]


def test_a_lost_worker_fails_the_call_and_keeps_what_was_finished(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run("--max-num-seqs", "1", fail_from=3) == 1
    assert "the device is lost" in capsys.readouterr().err
    assert bench.run() == 0
    assert sum(len(worker.asked) for worker in bench.workers) < 12
    assert len(bench.samples()) == 6


def test_a_refused_request_is_that_samples_error_and_counts_as_wrong(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(refuse="2 ") == 0
    assert "1 without answer" in capsys.readouterr().out
    assert [row["symbolic_correct"] for row in bench.samples()] == [True, True, False, False, True, True]


@pytest.mark.parametrize(
    "line",
    [
        rb'{"problem": "cut emoji \ud83d", "expected_answer": 2}',
        b'{"problem": "What is 1 + 1?", "expected_answer": 1' + b"0" * 5000 + b"}",
        b'{"problem": "What is 1 + 1?", "expected_answer": NaN}',
        b"[" * 100_000,
        b'["no object"]',
        b'{"question": "What is 1 + 1?"}',
        b'{"problem": "bug", "expected_answer": 2}',
    ],
    ids=["surrogate", "huge integer", "not a number", "nested", "no object", "lacks a field", "the worker stumbles"],
)
def test_a_row_that_cannot_be_asked_is_recorded_and_the_rest_goes_on(
    bench: Bench, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bench.folder / "data" / "gsm8k" / "test.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], line + b"\n", b"\n", *lines[1:]]))
    assert bench.run() == 0
    output = capsys.readouterr().out
    assert "no answer: gsm8k seed 0 sample 1:" in output
    assert "(7 samples)" in output
    assert "1 without answer" in output
    rows = bench.samples()
    assert [row["symbolic_correct"] for row in rows] == [True, False, True, True, False, True, True]
    assert [position for position, row in enumerate(rows) if "error" in row] == [1]
    assert bench.run() == 0
    assert len(bench.workers) == 1


def test_a_task_whose_samples_were_all_refused_fails(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert bench.run("--limit", "2", refuse=("0 ", "1 ")) == 1
        assert "gsm8k: none of 2 samples has an answer; the first: context: too long" in capsys.readouterr().err
    assert len(bench.workers) == 1


def test_answers_that_cannot_fit_the_checkpoint_are_refused_before_the_first_sample(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run("--max-new-tokens", "4096") == 2
    assert "got 4096 with a context of 4096 tokens" in capsys.readouterr().err
    assert not bench.workers[0].asked


def test_the_threshold_reaches_linear_spec(bench: Bench) -> None:
    assert bench.run("--mode", "linear_spec", "--threshold", "0.5", "--limit", "1") == 0
    (fields,) = bench.workers[0].asked
    assert (fields["mode"], fields["threshold"], fields["block_length"]) == ("linear_spec", 0.5, 32)


@pytest.mark.parametrize(("flags", "budget"), [((), None), (("--enable-thinking",), 70)])
def test_the_thinking_budget_is_sent_with_thinking_on_only(
    bench: Bench, flags: tuple[str, ...], budget: int | None
) -> None:
    assert bench.run("--max-thinking-tokens", "70", "--limit", "1", *flags) == 0
    assert bench.workers[0].asked[0].get("max_thinking_tokens") == budget


def test_the_adapter_beside_the_model_is_found(bench: Bench) -> None:
    (bench.folder / "model" / "linear_spec_lora").mkdir()
    assert bench.run("--mode", "linear_spec", "--lora", "--limit", "1") == 0
    assert bench.workers[0].settings.lora == str(bench.folder / "model" / "linear_spec_lora")
    assert bench.workers[0].asked[0]["lora"] is True


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mode", "ar", "--lora"), "only linear_spec and auto do; got mode ar"),
        (("--mode", "dlm", "--lora"), "only linear_spec and auto do; got mode dlm"),
        (("--lora-path", "x"), "--lora-path acts with --lora"),
        (("--mode", "ar", "--block-length", "4"), "block_length of ar: got 4"),
        (("--mode", "ar", "--threshold", "0.5"), "threshold of ar"),
        (("--dtype", "fp16"), "dtype: got fp16; valid: bf16, fp32"),
        (("--tasks", "gsm8k,nope"), "unknown task: got nope; valid: gsm8k, math-500"),
        (("--limit", "0"), "limit: got 0"),
        (("--print-every", "0"), "--print-every: got 0"),
        (("--tasks", "math-500"), "no data for math-500"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_model_loads(
    bench: Bench, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    assert bench.run(*flags) == 2
    assert words in capsys.readouterr().err
    assert not bench.workers


def test_every_task_is_a_registered_benchmark() -> None:
    for name in hub.TASKS:
        assert load_benchmark(name).scorer != "none"


def test_without_network_and_data_the_error_names_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> str:
        raise ConfigError("could not download test_original.jsonl")

    monkeypatch.setenv("TRIMODE_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(hub, "prepare", no_network)
    with pytest.raises(ConfigError, match=r"With network.*could not download.*Without, give --data-dir DIR"):
        hub.ensure_rows(load_benchmark("gsm8k"), None, hub.TASKS["gsm8k"])


def test_rows_of_the_hub_are_converted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = ModuleType("datasets")
    datasets.__spec__ = importlib.util.spec_from_loader("datasets", None)
    asked: list[tuple[object, ...]] = []

    def load_dataset(path: str, config: str | None, split: str) -> list[dict[str, str]]:
        asked.append((path, config, split))
        return [{"question": "q", "answer": "a\n#### 7"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    monkeypatch.setenv("TRIMODE_DATA_DIR", str(tmp_path))
    benchmark = load_benchmark("gsm8k")
    hub.ensure_rows(benchmark, None, hub.TASKS["gsm8k"])
    hub.ensure_rows(benchmark, None, hub.TASKS["gsm8k"])
    assert asked == [("openai/gsm8k", "main", "test")]
    assert json.loads((tmp_path / "gsm8k" / "test.jsonl").read_text(encoding="utf-8"))["expected_answer"] == 7


def test_the_worker_loads_the_revision_of_the_plan(tmp_path: Path) -> None:
    args = parse([], hub.TASKS)
    config = config_of("mode=dlm", "model.path=org/tri")
    spec = job_spec(tmp_path)
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, path="org/tri", revision="v1"))
    settings = worker_settings(args, config, spec)
    assert (settings.model, settings.revision) == ("org/tri", "v1")


def test_quantization_goes_through_the_plan_to_the_worker(tmp_path: Path) -> None:
    for flags, wanted in (
        ([], (Quantization.none, False, True)),
        (["--quantization", "w4a16", "--quantize-head", "--no-batch-invariant"], (Quantization.w4a16, True, False)),
    ):
        args = parse(flags, hub.TASKS)
        config = config_of(*overrides(args, ["gsm8k"]), "model.path=org/tri")
        (job,) = plan(config, survey(config, tmp_path))
        settings = worker_settings(args, config, job)
        assert (settings.quantization, settings.quantize_head, settings.batch_invariant) == wanted


def test_started_as_a_script_its_folder_is_not_searched(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"sys.argv = ['evaluate.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import importlib.util\n"
        "found = importlib.util.find_spec('kernels')\n"
        f"assert found is None or not str(found.origin).startswith({str(SCRIPT.parent) + '/kernels'!r}), found\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "--enable-thinking" in done.stdout
