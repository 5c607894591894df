"""prepare against a real HTTP server on this machine."""

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.data import load_rows, sources
from trimode.pipeline.data.__main__ import main
from trimode.pipeline.data.prepare import PUNKT_FILES, PrepareOptions, prepare
from trimode.pipeline.data.sources import RawFile


class FileServer:
    """Serves `files` and logs what was `asked`; the first `busy` answers are 503, the first `dropped` end early."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.busy = 0
        self.dropped = 0
        self.asked: list[str] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                if owner.busy > 0:
                    owner.busy -= 1
                    self.send_error(503)
                    return
                body = owner.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if owner.dropped > 0:
                    owner.dropped -= 1
                    body = body[: len(body) // 2]
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[FileServer]:
    files = FileServer()
    yield files
    files.close()


RAW = b"".join(
    json.dumps({"question": f"q{index}", "answer": f"<<1>>s\n#### {index}"}).encode() + b"\n" for index in range(1319)
)


def _pin(monkeypatch: pytest.MonkeyPatch, benchmark: str, body: bytes, **changes: Any) -> None:
    """Makes `body` the published file of `benchmark`."""
    (file,) = sources.SOURCES[benchmark]
    fields = {"name": file.name, "urls": file.urls, "sha256": hashlib.sha256(body).hexdigest(), "terms": file.terms}
    monkeypatch.setitem(sources.SOURCES, benchmark, (RawFile(**(fields | changes)),))


def _options(server: FileServer, data_dir: Path, **changes: Any) -> PrepareOptions:
    return PrepareOptions(data_dir=data_dir, mirror=server.url, wait_s=0, **changes)


def test_prepare_downloads_checks_and_converts(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    server.files["/gsm8k/test_original.jsonl"] = RAW
    assert prepare("gsm8k", _options(server, tmp_path)) == f"gsm8k: 1319 rows, downloaded in {tmp_path}/gsm8k"
    assert sorted(path.name for path in (tmp_path / "gsm8k").iterdir()) == ["test.jsonl", "test_original.jsonl"]
    assert load_rows(load_benchmark("gsm8k"), tmp_path)[7] == {
        "problem": "q7",
        "expected_answer": 7,
        "reference_solution": "s\n",
    }


def test_a_second_prepare_asks_for_nothing(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    server.files["/gsm8k/test_original.jsonl"] = RAW
    prepare("gsm8k", _options(server, tmp_path))
    server.asked.clear()
    assert "already there" in prepare("gsm8k", _options(server, tmp_path))
    assert not server.asked


def test_files_already_there_are_checked_and_nothing_is_written(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    path = tmp_path / "gsm8k" / "test_original.jsonl"
    path.parent.mkdir()
    path.write_bytes(RAW)
    assert "already there" in prepare("gsm8k", _options(server, tmp_path))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_busy_server_is_asked_again(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    server.files["/gsm8k/test_original.jsonl"] = RAW
    server.busy = 2
    prepare("gsm8k", _options(server, tmp_path))
    assert len(server.asked) == 3


def test_a_dropped_download_is_asked_again_and_leaves_no_half_file(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    server.files["/gsm8k/test_original.jsonl"] = RAW
    server.dropped = 2
    assert "1319 rows" in prepare("gsm8k", _options(server, tmp_path))
    assert len(server.asked) == 3
    server.asked.clear()
    server.dropped = 3
    with pytest.raises(ConfigError, match=r"could not download test_original\.jsonl"):
        prepare("gsm8k", _options(server, tmp_path / "other"))
    assert len(server.asked) == 3
    assert not list((tmp_path / "other").rglob("*.jsonl"))


def test_a_download_is_announced_on_stderr(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    server.files["/gsm8k/test_original.jsonl"] = RAW
    prepare("gsm8k", _options(server, tmp_path))
    assert capsys.readouterr().err == f"downloading {server.url}/gsm8k/test_original.jsonl\n"


def test_the_next_source_is_asked_when_the_first_has_no_file(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = (f"{server.url}/gone", f"{server.url}/here")
    _pin(monkeypatch, "gsm8k", RAW, urls=urls)
    server.files["/here"] = RAW
    prepare("gsm8k", PrepareOptions(data_dir=tmp_path, wait_s=0))
    assert server.asked == ["/gone", "/here"]


def test_another_file_than_the_published_one_is_refused_and_removed(server: FileServer, tmp_path: Path) -> None:
    server.files["/gsm8k/test_original.jsonl"] = RAW
    with pytest.raises(ConfigError, match=r"not the published file: sha256 .*--any-version"):
        prepare("gsm8k", _options(server, tmp_path))
    assert not list((tmp_path / "gsm8k").iterdir())


def test_any_version_takes_it(server: FileServer, tmp_path: Path) -> None:
    server.files["/gsm8k/test_original.jsonl"] = RAW
    assert "1319 rows" in prepare("gsm8k", _options(server, tmp_path, any_version=True))


def test_a_file_with_rows_missing_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"".join(RAW.splitlines(keepends=True)[:100])
    _pin(monkeypatch, "gsm8k", body)
    server.files["/gsm8k/test_original.jsonl"] = body
    with pytest.raises(ConfigError, match="holds 100 rows of gsm8k, the full split has 1319"):
        prepare("gsm8k", _options(server, tmp_path))


def test_no_server_at_all_names_the_url_and_the_target_path_and_leaves_no_trace(
    server: FileServer, tmp_path: Path
) -> None:
    server.close()
    with pytest.raises(ConfigError) as caught:
        prepare("gsm8k", _options(server, tmp_path))
    assert f"{server.url}/gsm8k/test_original.jsonl" in str(caught.value)
    assert f"put the file at {tmp_path}/gsm8k/test_original.jsonl" in str(caught.value)
    assert not list(tmp_path.iterdir())
    server.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.thread = threading.Thread(target=server.server.serve_forever, args=(0.05,))
    server.thread.start()


def test_the_gated_benchmark_explains_its_token(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gated: accept its terms at https://huggingface\.co.*HF_TOKEN"):
        prepare("gpqa", _options(server, tmp_path))


def test_code_benchmarks_fetch_their_tests_even_when_rows_are_prepared(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = (json.dumps({"prompt": "def f():\n", "base_input": [], "plus_input": []}).encode() + b"\n") * 164
    _pin(monkeypatch, "human-eval", raw, name="HumanEvalPlus-v0.1.9.jsonl")
    folder = tmp_path / "human-eval"
    folder.mkdir()
    (folder / "test.jsonl").write_text('{"question": "q"}\n' * 164, encoding="utf-8")
    server.files["/human-eval/HumanEvalPlus-v0.1.9.jsonl"] = raw
    prepare("human-eval", _options(server, tmp_path))
    assert (folder / "HumanEvalPlus-v0.1.9.jsonl").read_bytes() == raw
    assert (folder / "test.jsonl").read_text(encoding="utf-8").startswith('{"question": "q"}')


def test_livecodebench_keeps_the_tests_of_its_problems_for_scoring(server: FileServer, tmp_path: Path) -> None:
    problem = {"question_content": "Q", "starter_code": "", "difficulty": "easy", "public_test_cases": "[]"}
    for index, file in enumerate(sources.SOURCES["livecodebench"]):
        rows = [
            problem | {"question_id": f"{index}-{day}", "contest_date": day} for day in ("2024-01-01", "2024-09-01")
        ]
        server.files[f"/livecodebench/{file.name}"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    line = prepare("livecodebench", _options(server, tmp_path, any_version=True))
    assert line.startswith("livecodebench: 6 rows, downloaded")
    tests = [json.loads(each) for each in (tmp_path / "livecodebench" / "tests.jsonl").read_text().splitlines()]
    assert [test["question_id"] for test in tests] == [f"{index}-2024-09-01" for index in range(6)]
    assert [row["task_id"] for row in load_rows(load_benchmark("livecodebench"), tmp_path)] == [
        test["question_id"] for test in tests
    ]


def test_punkt_is_unpacked_where_nltk_looks(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "punkt.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in PUNKT_FILES:
            packed.writestr(f"punkt_tab/english/{name}", name)
    _pin(monkeypatch, "nltk_punkt", archive.read_bytes())
    server.files["/nltk_punkt/punkt_tab.zip"] = archive.read_bytes()
    prepare("nltk_punkt", _options(server, tmp_path))
    model = tmp_path / "nltk_punkt" / "tokenizers" / "punkt_tab" / "english"
    assert sorted(path.name for path in model.iterdir()) == sorted(PUNKT_FILES)


def test_the_command_goes_on_after_a_failure_and_exits_2(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pin(monkeypatch, "gsm8k", RAW)
    server.files["/gsm8k/test_original.jsonl"] = RAW
    code = main(["prepare", "gpqa", "gsm8k", "--data-dir", str(tmp_path), "--mirror", server.url])
    printed = capsys.readouterr()
    assert code == 2
    assert "gsm8k: 1319 rows" in printed.out
    assert "error: gpqa: could not download" in printed.err


def test_an_unknown_name_is_refused_before_anything_is_fetched(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "gsm9k", "--data-dir", str(tmp_path), "--mirror", server.url]) == 2
    assert "got gsm9k; valid: all, gsm8k" in capsys.readouterr().err
    assert not server.asked


def test_a_benchmark_without_a_download_says_who_makes_its_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ns prepare_data livecodebench-cpp"):
        prepare("livecodebench-cpp", PrepareOptions(data_dir=tmp_path))
