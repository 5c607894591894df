"""The generate command line: rows in order, one bad row fails itself only, exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from trimode.core.errors import WorkerError
from trimode.tests.workers.conftest import micro_settings
from trimode.tests.workers.micro import MICRO, load_cases
from trimode.tests.workers.test_text import DEMO
from trimode.workers import generate, rows
from trimode.workers.runtime import Runtime

CASE = load_cases()[0]


def run(
    monkeypatch: pytest.MonkeyPatch, folder: Path, lines: list[str], *flags: str
) -> tuple[int, list[dict[str, object]]]:
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths = ["--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl")]
    fixed = ["--model", str(MICRO), "--dtype", "float32", "--device", "cpu", "--kv-cache-gb", "0.05"]
    monkeypatch.setattr(sys, "argv", ["generate", *paths, *fixed, *flags])
    status = generate.main()
    text = (folder / "out.jsonl").read_text() if (folder / "out.jsonl").exists() else ""
    return status, [json.loads(line) for line in text.split("\n") if line]


def test_good_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, results = run(monkeypatch, tmp_path, [json.dumps({"id": "a\u2028b", **CASE.fields}, ensure_ascii=False)])
    assert status == 0
    assert list(results[0]) == ["id", "token_ids", "text", "finish_reason", "nfe", "forwards", "trace"]
    assert results[0]["id"] == "a\u2028b"
    assert (results[0]["token_ids"], results[0]["nfe"], results[0]["text"]) == (CASE.tokens, CASE.nfe, None)


def test_a_bad_row_gets_its_error_and_the_rest_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [
        "{not json",
        json.dumps({"id": 1, "mode": "ar", "prompt_ids": [1], "lora": True}),
        json.dumps({"id": 2, "mode": "ar", "prompt": "text"}),
        json.dumps({"id": 3, **CASE.fields}),
    ]
    status, results = run(monkeypatch, tmp_path, lines)
    assert status == 1
    assert [set(r) == {"id", "error"} for r in results] == [True, True, True, False]
    assert "--lora DIR" in str(results[1]["error"])
    assert "no tokenizer" in str(results[2]["error"])
    assert results[3]["nfe"] == CASE.nfe


BAD_LINES = {
    "surrogate in the prompt": json.dumps({"id": 1, "mode": "ar", "prompt": "cut \ud83d"}),
    "surrogate in a message": json.dumps({"id": 1, "mode": "ar", "messages": [{"role": "user", "content": "\udc00"}]}),
    "surrogate in a stop": json.dumps({"id": 1, "mode": "ar", "prompt": "x", "stop": ["\ud83d"]}),
    "surrogate in the id": json.dumps({"id": "\ud83d", "mode": "ar", "prompt": "x"}),
    "surrogate in a name": json.dumps({"id": 1, "mode": "ar", "prompt": "x", "\ud83d": 1}),
    "surrogate in the mode": json.dumps({"id": 1, "mode": "\ud83d", "prompt": "x"}),
    "large integer": '{"id": 1, "mode": "ar", "prompt": "x", "seed": ' + "9" * 5000 + "}",
    "large negative integer": '{"id": 1, "mode": "ar", "prompt": "x", "top_k": -' + "9" * 5000 + "}",
    "large integer as token": '{"id": 1, "mode": "ar", "prompt_ids": [' + "9" * 5000 + "]}",
    "large integer as id": '{"id": ' + "9" * 5000 + ', "mode": "ar", "prompt": "x"}',
    "nested": "[" * 100_000,
    "nested and closed": "[" * 100_000 + "]" * 100_000,
    "nested field": '{"id": 1, "mode": "ar", "prompt": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "list as id": '{"id": ["a"], "mode": "ar", "prompt": "x"}',
    "nested id": '{"mode": "ar", "prompt": "x", "id": ' + "[" * 900 + "]" * 900 + "}",
    "byte order mark": "\ufeff" + json.dumps({"id": 1, "mode": "ar", "prompt": "x"}),
    "null": "null",
    "list": "[]",
    "string": '"x"',
    "no fields": "{}",
    "no prompt": '{"id": 1, "mode": "ar"}',
    "no mode": '{"id": 1, "prompt": "x"}',
    "NaN": '{"id": 1, "mode": "ar", "prompt": "x", "temperature": NaN}',
    "NaN as id": '{"id": NaN, "mode": "ar", "prompt": "x"}',
    "infinity": '{"id": 1, "mode": "ar", "prompt": "x", "top_k": 1e999}',
    "cut": '{"id": 1, "mode": "ar", "prom',
    "NUL": "\0",
    "too long": json.dumps({"id": 1, "mode": "ar", "prompt": "x" * 3_000_000}),
    "request id": json.dumps({"id": 1, "mode": "ar", "prompt": "x", "request_id": "\ud83d"}),
}


@pytest.fixture(scope="module")
def demo() -> Runtime:
    return Runtime(micro_settings(model=str(DEMO), lora=None))


def with_runtime(monkeypatch: pytest.MonkeyPatch, runtime: Runtime, folder: Path, data: bytes) -> int:
    """Runs the command on a loaded model."""
    (folder / "in.jsonl").write_bytes(data)
    monkeypatch.setattr(generate, "Runtime", lambda _: runtime)
    paths = ["--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl")]
    monkeypatch.setattr(sys, "argv", ["generate", *paths, "--model", str(DEMO)])
    return generate.main()


def good(name: str, tokens: int = 3) -> str:
    return json.dumps({"id": name, "mode": "ar", "prompt": "Tom has", "max_new_tokens": tokens, "ignore_eos": True})


@pytest.mark.parametrize("fault", BAD_LINES)
def test_a_line_that_is_no_row_costs_itself_only(
    monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path, fault: str
) -> None:
    lines = [good("first"), BAD_LINES[fault], good("last")]
    assert with_runtime(monkeypatch, demo, tmp_path, "\n".join(lines).encode("utf-8")) == 1
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    first, bad, last = [json.loads(line, parse_constant=None) for line in written.split("\n") if line]
    assert set(bad) == {"id", "error"}
    assert len(bad["error"]) < 2000
    assert ([first["id"], last["id"]], first["token_ids"]) == (["first", "last"], last["token_ids"])
    assert len(first["token_ids"]) == 3
    if '"id": 1,' in BAD_LINES[fault] and fault not in ("cut", "nested field", "byte order mark"):
        assert bad["id"] == 1
    if fault == "surrogate in the id":
        assert bad["id"] == "\ud83d"


@pytest.mark.parametrize("data", [b"\xff\xfe", b'{"id": "\xe4"}', "{}".encode("utf-16")])
def test_a_line_that_is_not_utf_8_costs_itself_only(
    monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path, data: bytes
) -> None:
    assert (
        with_runtime(monkeypatch, demo, tmp_path, good("a").encode() + b"\n" + data + b"\n" + good("b").encode()) == 1
    )
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert [result["id"] for result in results] == ["a", 1, "b"]
    assert "UTF-8" in results[1]["error"]


def test_a_line_above_the_limit_costs_itself_only(
    monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path
) -> None:
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 200)
    lines = [good("a"), "x" * 200, "x" * 201, "x" * 5000, good("b")]
    assert with_runtime(monkeypatch, demo, tmp_path, "\n".join(lines).encode()) == 1
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert ["longer than" in str(result.get("error")) for result in results] == [False, False, True, True, False]


def interrupted_after(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, steps: int, error: BaseException) -> None:
    step, left = runtime.engine.step, [steps]

    def counted() -> object:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return step()

    monkeypatch.setattr(runtime.engine, "step", counted)


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (WorkerError("device lost"), 2)])
def test_what_was_computed_is_in_the_file_when_the_run_ends_early(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, status: int
) -> None:
    runtime = Runtime(micro_settings(model=str(DEMO), lora=None))
    lines = [good("long", 60), *(good(f"short {number}", 2) for number in range(5)), "no row"]
    interrupted_after(runtime, monkeypatch, 10, error)
    assert with_runtime(monkeypatch, runtime, tmp_path, "\n".join(lines).encode()) == status
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert sorted(str(result["id"]) for result in results) == ["6", *(f"short {number}" for number in range(5))]


def test_rows_are_written_as_they_end_and_ordered_at_the_end(
    monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path
) -> None:
    seen: list[list[str]] = []
    finish = rows.AnswerFile.finish

    def look(file: rows.AnswerFile) -> None:
        seen.append([json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()])
        finish(file)

    monkeypatch.setattr(rows.AnswerFile, "finish", look)
    assert with_runtime(monkeypatch, demo, tmp_path, "\n".join([good("a", 9), good("b", 2)]).encode()) == 0
    assert seen == [["b", "a"]]
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["a", "b"]


def test_more_rows_than_slots_are_all_answered(monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path) -> None:
    names = [str(number) for number in range(50)]
    assert with_runtime(monkeypatch, demo, tmp_path, "\n".join(map(good, names)).encode()) == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == names


def test_rows_that_share_an_id_are_answered_in_their_places(
    monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path
) -> None:
    lines = [good("a", 7), good("a", 2), json.dumps({"id": "a"}), good("a", 4)]
    assert with_runtime(monkeypatch, demo, tmp_path, "\n".join(lines).encode()) == 1
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [result["id"] for result in results] == ["a"] * 4
    assert [len(result.get("token_ids", [])) for result in results] == [7, 2, 0, 4]


def test_the_input_is_never_the_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(good("a"))
    monkeypatch.setattr(sys, "argv", ["generate", "--model", str(DEMO), "--input", str(path), "--output", str(path)])
    assert generate.main() == 2
    assert path.read_text() == good("a")


def test_an_output_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, demo: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.jsonl").mkdir()
    assert with_runtime(monkeypatch, demo, tmp_path, good("a").encode()) == 2
    assert "error: --output " in capsys.readouterr().err


def test_nothing_starts_without_an_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        sys, "argv", ["generate", "--model", "nowhere/", "--input", "no", "--output", str(tmp_path / "o")]
    )
    assert generate.main() == 2
