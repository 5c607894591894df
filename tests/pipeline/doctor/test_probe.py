"""The probe: a whole talk with a node's program on this machine, jobs that never speak, and what a talk shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from trimode.pipeline.doctor import probe_host
from trimode.pipeline.doctor.probe_host import Talk, check_probe, results
from trimode.pipeline.doctor.probe_node import Lock, hear, replace_and_read, say
from trimode.pipeline.launch.finding import Finding, State, Subject, findings
from trimode.pipeline.plan.jobs import plan
from trimode.pipeline.plan.survey import survey
from trimode.tests.fakes.slurm_commands import put_on_path
from trimode.tests.fakes.sweeps import config_of

BARE = ("mode=ar", "model.path=./model", "suite=demo", "cluster=bare", "cluster.gpus=2", "out_dir=out")
RUNS = rf"""cat > $0.script
line=$(sed -n 's/.* \(\/[^ ]*probe_node.py\) \(.*\)/\1 \2/p' $0.script)
{sys.executable} $line >/dev/null 2>&1 &
echo '7;test'"""
"""sbatch that runs the program of the script here."""
ACCEPTS = "cat >/dev/null; echo 7"
CANCELS = 'echo "$@" > $0.asked'


def probe(cwd: Path, monkeypatch: pytest.MonkeyPatch, **commands: str | None) -> list[Finding]:
    (cwd / "model").mkdir()
    put_on_path(cwd / "bin", monkeypatch, {"scancel": CANCELS, **commands})
    config = config_of(*BARE)
    found = survey(config, cwd)
    made = list(check_probe(Subject(config=config, survey=found, jobs=plan(config, found))))
    assert list((cwd / "out").iterdir()) == [], "nothing is left"
    return made


def cancelled(cwd: Path) -> str:
    asked = cwd / "bin" / "scancel.asked"
    return asked.read_text().strip() if asked.exists() else ""


@pytest.mark.process
def test_a_whole_talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(tmp_path, monkeypatch, sbatch=RUNS, squeue="echo '7|COMPLETED|None'")
    said = {item.name: item for item in found}
    assert said["probe"].text.startswith("job 7 spoke from ")
    assert {item.state for name, item in said.items() if name != "node's Python"} == {State.OK}, found
    assert set(said) == {
        *("probe", "node's Python", "node's files", "shared folder", "flock", "rename", "clock"),
    }
    script = (tmp_path / "bin" / "sbatch.script").read_text()
    assert "#SBATCH --time=5" in script and "#SBATCH --gpus-per-node=1" in script
    assert "#SBATCH --job-name=trimode-probe" in script and "#SBATCH --no-requeue" in script
    assert cancelled(tmp_path) == ""


@pytest.mark.process
@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("RUNNING", "its files are not seen in", State.FAIL),
        ("PENDING", "no node was free within", State.WARN),
        ("FAILED", "job 7 ended before it spoke: it wrote nothing here", State.FAIL),
    ],
)
def test_a_job_that_never_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, text: str, kind: State
) -> None:
    monkeypatch.setattr(probe_host, "QUEUE_S", 0.5)
    monkeypatch.setattr(probe_host, "ASK_EVERY_S", 0.1)
    [found] = probe(tmp_path, monkeypatch, sbatch=ACCEPTS, squeue=f"echo '7|{state}|None'")
    assert text in found.text and found.state is kind
    assert cancelled(tmp_path) == ("" if state == "FAILED" else "7")


@pytest.mark.process
def test_the_end_of_its_log_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_host, "ASK_EVERY_S", 0.1)
    log = r"""cat > $0.script
folder=$(sed -n 's/.*probe_node.py \(.*\)/\1/p' $0.script)
echo "srun: error: no such interpreter" > $folder/7_0_log.out; echo 7"""
    [found] = probe(tmp_path, monkeypatch, sbatch=log, squeue="echo '7|FAILED|None'")
    assert found.text == "job 7 ended before it spoke: srun: error: no such interpreter"


@pytest.mark.process
def test_ctrl_c_cancels_the_job_and_removes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe_host, "hear", interrupted)
    (tmp_path / "model").mkdir()
    put_on_path(tmp_path / "bin", monkeypatch, {"scancel": CANCELS, "sbatch": ACCEPTS, "squeue": "echo '7|PENDING|x'"})
    config = config_of(*BARE)
    found = survey(config, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        findings(probe_host.PROBE, Subject(config=config, survey=found, jobs=plan(config, found)))
    assert cancelled(tmp_path) == "7" and list((tmp_path / "out").iterdir()) == []


@pytest.mark.process
def test_a_refused_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = probe(tmp_path, monkeypatch, sbatch="echo 'sbatch: error: no' >&2; exit 1")
    assert (found.state, found.text) == (State.FAIL, "no")


def talk(**changes: object) -> Talk:
    made = Talk(
        Path("x"),
        job_id="7",
        node={"host": "n1", "lock": "refused"},
        answer={"lock": "taken"},
        host_lock="refused",
        replaced_here={"read": 5, "gone": 0, "broken": 0},
        replaced_there={"read": 4, "gone": 0, "broken": 0},
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def judged(found: Talk, name: str) -> Finding:
    return next(item for item in results(found, own_packages=True) if item.name == name)


@pytest.mark.parametrize(
    ("changes", "name", "state", "text"),
    [
        ({}, "flock", State.OK, "locks of the node hold here"),
        ({"node": {"lock": "taken"}}, "flock", State.FAIL, "a lock that this host held was taken on the node"),
        ({"host_lock": "taken"}, "flock", State.FAIL, "then taken here"),
        ({"node": {"lock": "No locks available"}}, "flock", State.FAIL, "was No locks available on the node"),
        ({"replaced_there": {"read": 4, "gone": 1, "broken": 2}}, "rename", State.WARN, "1 were gone and 2 not whole"),
        ({"replaced_there": None}, "rename", State.FAIL, "did not finish"),
        ({"offset_s": 9.0, "doubt_s": 0.1}, "clock", State.WARN, "+9.00 s"),
        ({"offset_s": -9.0, "doubt_s": 0.1}, "clock", State.WARN, "-9.00 s"),
        ({"offset_s": 9.0, "doubt_s": 8.0}, "clock", State.OK, "give or take 8.00 s"),
        ({"answer": None}, "shared folder", State.FAIL, "not seen there"),
        ({"node": {"missing_paths": ["/m"]}}, "node's files", State.FAIL, "does not see /m"),
        ({"node": {"missing_packages": ["ray"]}}, "node's Python", State.FAIL, "lacks ray"),
    ],
)
def test_what_a_talk_shows(changes: dict[str, object], name: str, state: State, text: str) -> None:
    found = judged(talk(**changes), name)
    assert (found.state, text in found.text) == (state, True), found


def test_messages_locks_and_replaced_files(tmp_path: Path) -> None:
    assert hear(tmp_path, "a", 0.0) is None
    say(tmp_path, "a", {"x": 1})
    assert hear(tmp_path, "a", 0.0) == {"x": 1}
    one, two = Lock(tmp_path), Lock(tmp_path)
    assert (one.take(), two.take()) == ("taken", "refused")
    one.close()
    assert two.take() == "taken"
    two.close()
    (tmp_path / "replaced-b").write_text("{half")
    counts = replace_and_read(tmp_path, "a", "b", tmp_path / "never", 0.05)
    assert counts["broken"] and not counts["read"] and counts["replaced"]
    assert replace_and_read(tmp_path, "a", "b", tmp_path / "a", 60.0)["replaced"] == 0, "it stops at once"
