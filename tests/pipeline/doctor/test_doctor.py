"""The doctor's screen: what a ready cluster shows, what each missing thing shows, and that no check hides another."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from trimode.pipeline.doctor.__main__ import line, main
from trimode.pipeline.launch.finding import Check, Finding, State, Subject, fail, findings, ok
from trimode.pipeline.plan.survey import survey
from trimode.pipeline.slurm import commands
from trimode.tests.fakes.slurm_commands import CONFIG, SCONTROL, put_on_path
from trimode.tests.fakes.sweeps import config_of

pytestmark = pytest.mark.process

FLAGS = ("--mode", "ar,dlm", "--model", "./model", "--benchmarks", "demo-math", "--cluster", "slurm", "--gpus", "8")
SWEEP = (*FLAGS, "--image", "i.sqsh", "--account", "us", "--partition", "main", "cluster.hub_cache=null")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with model and image, which is the current one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(3_900_000))
    (tmp_path / "i.sqsh").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def screen(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[dict[str, str]]]:
    status = main([*flags, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is (status == 0)
    return status, told["findings"]


def of_state(rows: list[dict[str, str]], *states: str) -> list[tuple[str, str, str]]:
    return [(row["name"], row["text"], row["remedy"]) for row in rows if row["state"] in states]


def test_a_ready_cluster(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = put_on_path(place / "bin", monkeypatch, {})
    status, rows = screen(capsys, *SWEEP)
    assert status == 0, rows
    assert of_state(rows, "warn", "fail") == []
    said = {row["name"]: row["text"] for row in rows}
    assert said["srun"] == "slurm 23.11.4"
    assert said["checkpoint"] == "config.json and 3.9 MB of weights"
    assert said["sbatch --test-only"].startswith("ar and 1 more: Job 7 to start at 2026-11-26T06:00:00")
    assert said["MaxArraySize"] == "1001; the largest array has 2 jobs"
    assert said["MaxSubmit"] == "50; 0 of yours are in the queue, 2 would be added"
    assert said["GPUs"] == "a job asks for 8; the largest node has 8"
    assert said["nodes"] == "1 of 2 nodes are usable"
    assert said["container"] == "srun has --container-image (pyxis)"
    script = (commands / "sbatch.script").read_text()
    assert "#SBATCH --gpus-per-node=8" in script and "#SBATCH --array=0-1" in script, "the real script"
    assert not (place / "eval_suit_results").exists(), "nothing is written"


REFUSED = "cat >/dev/null; case $1 in --version) echo slurm;; *) echo 'allocation failure: {}' >&2; exit 1;; esac"
NO_ACCOUNTS = SCONTROL.replace("accounting_storage/slurmdbd", "accounting_storage/none")
assert NO_ACCOUNTS != SCONTROL and CONFIG in SCONTROL


@pytest.mark.parametrize(
    ("changes", "flags", "name", "text", "remedy"),
    [
        ({"sbatch": None}, (), "sbatch", "sbatch is not on PATH", "run on a machine that submits"),
        ({"srun": None}, (), "container", "srun is not on PATH", "see the line of srun"),
        ({"squeue": "echo 'squeue: error: down' >&2; exit 1"}, (), "controller", "down", "slurmctld"),
        (
            {"sbatch": REFUSED.format("Invalid account or account/partition combination specified")},
            (),
            "sbatch --test-only",
            "Invalid account",
            "give --account; yours: `sacctmgr show assoc",
        ),
        (
            {"sbatch": REFUSED.format("invalid partition specified: main")},
            (),
            "sbatch --test-only",
            "invalid partition",
            "valid here: main, short, closed",
        ),
        ({"sbatch": REFUSED.format("Invalid qos specification")}, (), "sbatch --test-only", "qos", "another --qos"),
        (
            {"sbatch": REFUSED.format("Requested time limit is invalid (missing or exceeds some limit)")},
            (),
            "sbatch --test-only",
            "time limit",
            "shorter --time",
        ),
        (
            {"sbatch": REFUSED.format("Requested node configuration is not available")},
            (),
            "sbatch --test-only",
            "not available",
            "no node has that many GPUs",
        ),
        ({"srun": "echo slurm"}, (), "container", "no pyxis", "--cluster bare"),
        ({}, ("--partition", "short"), "partition short", "MaxTime is 30 minutes; the jobs ask for 240", "--time 30"),
        ({}, ("--partition", "closed"), "partition closed", "its state is DOWN", "another --partition"),
        ({}, ("--partition", "nowhere"), "partition", "got nowhere", "valid: main, short, closed"),
        ({}, ("--gpus", "9"), "GPUs", "a job asks for 9; the largest node has 8", "give --gpus 8"),
        ({}, ("--nodes", "99"), "nodes", "a job asks for 99 nodes;", "give --nodes"),
        ({}, ("cluster.cpus_per_task=65",), "CPUs", "asks for 65; the largest node has 64", "give --cpus 64"),
        ({}, ("cluster.mem_gb=600",), "GB of memory", "asks for 600; the largest node has 512", "give --mem 512"),
        ({"sacctmgr": "echo 'them|normal|50|'"}, (), "MaxSubmit", "no association with account us", "--account them"),
        ({}, ("--image", "other.sqsh"), "image", "image: no file", "a .sqsh or .sif file"),
        ({}, ("--model", "./other"), "model", "model: no folder", "a checkpoint folder"),
        ({}, ("--benchmarks", "gsm8k", "--data-dir", "none"), "data", "gsm8k", ""),
        ({}, ("--mode", "linear_spec", "--lora"), "adapter", "no adapter folder", "adapter_config.json"),
        ({}, ("--tokens", "0"), "settings", "max_new_tokens", ""),
        ({}, ("--exp-name", ".hidden"), "settings", "exp_name", ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_fails(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    flags: tuple[str, ...],
    name: str,
    text: str,
    remedy: str,
) -> None:
    put_on_path(place / "bin", monkeypatch, changes)
    status, rows = screen(capsys, *SWEEP, *flags)
    assert status == 1
    failed = of_state(rows, "fail")
    assert [row for row in failed if row[0] == name and text in row[1] and remedy in row[2]], failed
    assert {"hub token", "disk"} <= {row["name"] for row in rows}, "the other checks are there"


@pytest.mark.parametrize(
    ("changes", "flags", "name", "text"),
    [
        ({"sacct": "exit 1"}, (), "sacct", "sacct ended with status 1"),
        ({"sacct": None}, (), "sacct", "sacct is not on PATH"),
        ({"sacctmgr": "echo 'us|normal|1|'"}, (), "MaxSubmit", "1; 0 of yours are in the queue, 2 would be added"),
        ({"sacctmgr": "echo no >&2; exit 1"}, (), "MaxSubmit", "no"),
        ({}, ("--model", "org/tri"), "hub cache", "org/tri is not in"),
    ],
)
def test_what_is_only_a_warning(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    flags: tuple[str, ...],
    name: str,
    text: str,
) -> None:
    put_on_path(place / "bin", monkeypatch, changes)
    status, rows = screen(capsys, *SWEEP, *flags)
    assert status == 0, of_state(rows, "fail")
    assert [row for row in of_state(rows, "warn") if row[0] == name and text in row[1]], rows


def test_arrays_are_split_where_the_cluster_takes_short_ones_only(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, {"scontrol": SCONTROL.replace("= 1001", "= 1")})
    status, rows = screen(capsys, *SWEEP)
    said = {row["name"]: row["text"] for row in rows}
    assert (status, said["MaxArraySize"]) == (0, "1; the largest array has 1 job"), rows


def test_a_cluster_without_accounts(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disabled = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
    put_on_path(place / "bin", monkeypatch, {"scontrol": NO_ACCOUNTS, "sacct": disabled, "sacctmgr": None})
    status, rows = screen(capsys, *SWEEP)
    assert (status, of_state(rows, "warn", "fail")) == (0, [])


def test_commands_that_hang_cost_their_limit_and_hide_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, dict.fromkeys(("scontrol", "sacct"), "exec sleep 1000"))
    monkeypatch.setattr(commands.ask, "__defaults__", (1.0, ""))
    status, rows = screen(capsys, *SWEEP)
    assert status == 1
    failed = of_state(rows, "fail")
    assert ("limits", "scontrol gave no answer in time", "see the lines of the commands") in failed
    assert "sbatch --test-only" in {row["name"] for row in rows if row["state"] == "ok"}


def test_the_token_is_named_and_never_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, {})
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(SWEEP) == 0
    told = capsys.readouterr()
    assert "present ($HF_TOKEN)" in told.out and "hf_secret" not in told.out + told.err


NO_CONF = "echo 'fatal: Could not establish a configuration source' >&2; exit 1"
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "sacct")


@pytest.mark.parametrize(
    ("command", "cause"),
    [(NO_CONF, "there is no slurm.conf here"), (None, "sbatch, srun, squeue, scontrol are not on")],
)
def test_no_cluster_is_said_once_and_the_others_are_not_checked(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str | None, cause: str
) -> None:
    put_on_path(place / "bin", monkeypatch, dict.fromkeys(COMMANDS, command))
    status, rows = screen(capsys, *SWEEP)
    assert status == 1
    assert [row["name"] for row in rows if cause in row["text"]] == ["slurm"]
    assert of_state(rows, "warn")[-4:] == [
        (name, "not checked: there is no cluster here", "")
        for name in ("sacct", "sbatch --test-only", "limits", "container")
    ]


def test_without_a_mode_it_looks_at_slurm_folders_and_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, {})
    status, rows = screen(capsys, "--cluster", "bare", "--model", "./model")
    assert status == 0, rows
    said = {row["name"]: row["text"] for row in rows}
    assert said["sweep"] == "not checked: without --mode there is no sweep to look at"
    assert said["partitions"] == (
        "main (default): 1 of 2 nodes usable, up to 8 GPUs each; short: 1 of 1 node usable, up to 8 GPUs each; "
        "closed: 1 of 1 node usable, up to 8 GPUs each"
    )
    assert {"sbatch", "controller", "disk", "packages", "hub token", "model"} <= set(said)
    assert not {"plan", "data", "scorers", "sbatch --test-only"} & set(said)
    assert not (place / "eval_suit_results").exists(), "nothing is written"


def test_without_a_mode_a_cluster_that_is_not_there_hides_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, dict.fromkeys(COMMANDS, NO_CONF))
    status, rows = screen(capsys)
    assert status == 1
    assert [row["name"] for row in rows if row["state"] == "fail"] == ["account", "image", "slurm"]
    assert {"disk", "hub token"} <= {row["name"] for row in rows}


def test_all_benchmarks_without_data_share_a_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, {})
    benchmarks = ("--benchmarks", "gsm8k,mbpp,livecodebench-cpp", "--data-dir", "none")
    _, rows = screen(capsys, *SWEEP, *benchmarks)
    folder = place / "none"
    prepare = f"`python -m trimode.pipeline.data prepare gsm8k mbpp --data-dir {folder}`"
    made = "NeMo-Skills' `ns prepare_data livecodebench-cpp`"
    assert [row for row in of_state(rows, "fail") if row[0] == "data"] == [
        ("data", f"no data for gsm8k, mbpp, livecodebench-cpp in {folder}", f"{prepare}; {made}; or give --data-dir")
    ]


def test_a_local_sweep_asks_no_cluster(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_path(place / "bin", monkeypatch, dict.fromkeys(("sbatch", "srun", "squeue"), None))
    status, rows = screen(capsys, "--mode", "ar", "--model", "./model", "--benchmarks", "demo-math", "--local")
    assert status == 0 and not {"sbatch", "srun", "limits"} & {row["name"] for row in rows}


def test_wrong_flags_are_the_callers_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mode", "nonsense"]) == 2
    assert "--mode: got 'nonsense'" in capsys.readouterr().err


def subject(cwd: Path) -> Subject:
    config = config_of("cluster=local", "suite=demo", "model.path=./model")
    return Subject(config=config, survey=survey(config, cwd), jobs=())


def test_a_check_that_hangs_is_a_failure_of_its_own(tmp_path: Path) -> None:
    never = threading.Event()

    def look(_subject: Subject) -> Iterator[Finding]:
        yield ok("first", "fine")
        never.wait()

    found = findings(Check(name="slow", look=look, limit_s=0.2), subject(tmp_path))
    never.set()
    assert [(item.name, item.state) for item in found] == [("first", State.OK), ("slow", State.FAIL)]
    assert found[1].text == "no answer within 0 s"


def test_a_check_that_raises_is_a_failure_of_its_own(tmp_path: Path) -> None:
    def look(_subject: Subject) -> Iterator[Finding]:
        yield ok("first", "fine")
        raise OSError("gone")

    found = findings(Check(name="odd", look=look), subject(tmp_path))
    assert [(item.name, item.text) for item in found] == [("first", "fine"), ("odd", "OSError: gone")]


def test_a_line_has_its_remedy_below() -> None:
    assert line(ok("GPUs", "a\nb")) == "ok    GPUs                 a b"
    assert line(fail("GPUs", "none", "buy some")).splitlines()[1].strip() == "-> buy some"
