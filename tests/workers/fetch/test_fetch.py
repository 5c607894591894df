"""Fetching from a hub on a loopback port: pins, checksums, cut connections, tokens, and errors in words."""

from __future__ import annotations

import hashlib
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trimode.tests.fakes.hub import COMMIT as HEAD
from trimode.tests.fakes.hub import Hub
from trimode.workers.fetch.__main__ import ADAPTER_FOLDER, COMMIT, MODEL, PINS, SOURCE, pins, wanted_revision

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[3]
NAME = "owner/tiny"
WEIGHTS = random.Random(0).randbytes(1 << 20)
TOKEN = "hf_secret"


def files(**more: bytes) -> dict[str, bytes]:
    return {
        "config.json": b'{"a": 1}',
        "model.safetensors": WEIGHTS,
        f"{ADAPTER_FOLDER}/adapter_config.json": b'{"r": 16}',
        f"{ADAPTER_FOLDER}/adapter_model.safetensors": WEIGHTS[:5000],
        "modeling.py": b"import os",
        **more,
    }


def start(
    hub: Hub | None, folder: Path, *flags: str, what: str = "model", limit: Callable[[], None] | None = None, **env: str
) -> subprocess.Popen[str]:
    script = {"model": "fetch_model.sh", "adapter": "fetch_bundled_lora.sh"}[what]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder.parent),
        "TRIMODE_PYTHON": sys.executable,
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **env,
    }
    command = ["bash", str(ROOT / "scripts" / script), "--model", NAME, "--dir", str(folder), *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit)


def fetch(hub: Hub | None, folder: Path, *flags: str, **how: Any) -> subprocess.CompletedProcess[str]:
    with start(hub, folder, *flags, **how) as process:
        out, err = process.communicate(timeout=300)
    assert TOKEN not in out + err
    assert "Traceback" not in err
    return subprocess.CompletedProcess([], process.returncode, out, err)


def source(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / SOURCE).read_text())
    return found


def ranges(hub: Hub, name: str) -> list[str | None]:
    return [part for method, path, part in hub.requests if (method, path) == ("GET", f"/store/{name}")]


def test_a_checkpoint_comes_whole_and_without_code(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with Hub(NAME, files()) as hub:
        done = fetch(hub, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"ready: {folder}\n"
    assert f"{HEAD} is no pin of the project" in done.stderr
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / ADAPTER_FOLDER / "adapter_config.json").exists()
    assert not (folder / "modeling.py").exists()
    assert source(folder)["revision"] == HEAD
    assert source(folder)["sha256"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_an_adapter_comes_alone_and_a_second_call_fetches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ADAPTER_FOLDER
    with Hub(NAME, files()) as hub:
        assert fetch(hub, folder, what="adapter").returncode == 0
        assert sorted(path.name for path in folder.iterdir()) == [
            SOURCE,
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        assert sorted(source(folder)["sha256"]) == ["adapter_config.json", "adapter_model.safetensors"]
        fetched = len(ranges(hub, f"{ADAPTER_FOLDER}/adapter_model.safetensors"))
        assert fetch(hub, folder, what="adapter").returncode == 0
        assert len(ranges(hub, f"{ADAPTER_FOLDER}/adapter_model.safetensors")) == fetched == 1


def test_an_earlier_fetch_is_a_pin_until_another_revision_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with Hub(NAME, files()) as hub:
        assert fetch(hub, folder).returncode == 0
        moved = "f" * 40
        hub.revisions = {"main": moved, moved: moved, HEAD: HEAD}
        hub.files["config.json"] = b'{"a": 2}'
        done = fetch(hub, folder)
        assert "wrong checksum" in done.stderr  # the hub's files of the pinned revision have changed
        hub.commit = moved
        assert fetch(hub, folder, "--revision", "main").returncode == 0
    assert source(folder)["revision"] == moved
    assert (folder / "config.json").read_bytes() == b'{"a": 2}'


def test_cut_connections_are_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with Hub(NAME, files()) as hub:
        hub.cut_after, hub.cuts_left = 300_000, 3
        assert fetch(hub, folder).returncode == 0
        starts = [
            int((part or "bytes=0-").removeprefix("bytes=").rstrip("-")) for part in ranges(hub, "model.safetensors")
        ]
    assert starts == [0, 300_000, 600_000, 900_000]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_call_goes_on_where_the_last_one_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with Hub(NAME, files()) as hub:
        hub.cut_after, hub.cuts_left, hub.stall = 300_000, 1, True
        with start(hub, folder) as process:
            assert hub.stalled.wait(120)
            while not any(part.stat().st_size for part in folder.glob(".*.part")):
                time.sleep(0.02)
            process.kill()
        hub.release.set()
        hub.stall = False
        hub.requests.clear()
        assert fetch(hub, folder).returncode == 0
        (asked,) = ranges(hub, "model.safetensors")
        assert re.fullmatch(r"bytes=[1-9]\d*-", asked or "")
        assert [path for path in folder.iterdir() if path.suffix == ".part"] == []
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_server_that_gives_nothing_more_is_left_after_some_attempts(tmp_path: Path) -> None:
    with Hub(NAME, files()) as hub:
        hub.cut_after, hub.cuts_left = 0, 99
        done = fetch(hub, tmp_path / "tiny")
    assert done.returncode == 1
    assert "localhost gives no more" in done.stderr


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_removed_and_fetched_again(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with Hub(NAME, files()) as hub:
        hub.corrupt = {name}
        done = fetch(hub, folder)
        assert done.returncode == 1
        assert f"wrong checksum, removed: {name} (sha256 " in done.stderr
        assert not (folder / name).exists()
        assert not (folder / SOURCE).exists()
        hub.corrupt = set()
        assert fetch(hub, folder).returncode == 0
    assert (folder / name).read_bytes() == files()[name]


def test_the_token_goes_to_the_hub_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with Hub(NAME, files()) as hub:
        hub.token = TOKEN
        assert fetch(hub, tmp_path / "a", HF_TOKEN=TOKEN).returncode == 0
        assert fetch(hub, tmp_path / "b", HF_TOKEN_FILE=str(file)).returncode == 0
        assert set(hub.tokens_at_store) == {None}


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("token", 2, f"the hub has no {NAME}, or the token"),
        ("gated", 2, "is gated; valid: accept its terms"),
        ("model", 2, f"the hub has no {NAME}, or the token"),
        ("revision", 2, f"--revision: {NAME} has no v9"),
        ("adapter", 2, f"has no {ADAPTER_FOLDER}/*"),
        ("gone", 1, "cannot be reached"),
        ("folder", 2, "holds files of other/model"),
        ("name", 2, "is called linear_spec_lora"),
    ],
)
def test_what_goes_wrong_is_said(fault: str, status: int, said: str, tmp_path: Path) -> None:
    folder = tmp_path / ADAPTER_FOLDER
    with Hub("owner/other" if fault == "model" else NAME, files()) as hub:
        hub.token = TOKEN if fault == "token" else None
        hub.gated = fault == "gated"
        flags = ("--revision", "v9") if fault == "revision" else ()
        if fault == "adapter":
            hub.files = {"config.json": b"{}"}
        if fault == "folder":
            folder.mkdir()
            (folder / SOURCE).write_text('{"model": "other/model"}')
        place = tmp_path / "x" if fault == "name" else folder
        done = fetch(None if fault == "gone" else hub, place, *flags, what="adapter")
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    with Hub(NAME, files()) as hub:
        done = fetch(hub, tmp_path / "tiny", limit=limit)
    assert done.returncode == 2
    assert "the file may not grow any more" in done.stderr


def test_more_than_fits_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with Hub(NAME, files()) as hub:
        real = hub.info
        hub.info = lambda: real() | {"siblings": [entry | {"size": 10**18} for entry in real()["siblings"]]}  # type: ignore[method-assign]
        done = fetch(hub, tmp_path / "tiny")
        assert not any(path.startswith("/store") for _, path, _ in hub.requests)
    assert done.returncode == 2
    assert "GB free; valid: --dir elsewhere" in done.stderr


def test_the_project_pins_whole_commits_and_checksums() -> None:
    assert MODEL in pins()
    for model, pin in pins().items():
        assert COMMIT.fullmatch(pin["revision"]), model
        assert all(len(value) == 64 for value in pin["sha256"].values()), model
    assert PINS.exists()


def test_which_revision_is_asked_for() -> None:
    pinned = pins()[MODEL]["revision"]
    assert wanted_revision(MODEL, None, {}) == pinned
    assert wanted_revision(MODEL, "main", {}) == "main"
    assert wanted_revision("o/m", None, {}) == "main"
    assert wanted_revision("o/m", None, {"model": "o/m", "revision": "r"}) == "r"
    assert wanted_revision("o/m", None, {"model": "o/n", "revision": "r"}) == "main"
