"""Life and death of whole balancer processes: workers killed, two side by side, and nothing left at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from trimode.tests.fakes.balancer_process import (
    RunningBalancer,
    alive,
    command,
    environment,
    private_folder,
    start_balancer,
    wait_for,
)
from trimode.tests.fakes.events import read_events
from trimode.tests.fakes.machine import import_path

pytestmark = pytest.mark.process


def all_gone(pids: list[int], folder: Path) -> bool:
    return not any(alive(pid) for pid in pids) and not folder.exists()


def worker_pids(balancer: RunningBalancer) -> list[int]:
    return [worker["pid"] for worker in balancer.stats()["workers"] if worker["pid"]]


def test_a_killed_worker_costs_no_request_and_comes_back(balancer: RunningBalancer, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    before = balancer.stats()
    first = len(balancer.begun())
    with ThreadPoolExecutor(4) as threads:
        held = [threads.submit(balancer.ask, f"wait:{gate}") for _ in range(4)]
        wait_for(lambda: balancer.stats()["balancer"]["running"] == 4)
        os.kill(worker_pids(balancer)[0], signal.SIGKILL)
        wait_for(lambda: balancer.stats()["balancer"]["retried"] - before["balancer"]["retried"] == 2)
        gate.touch()
        assert {future.result().status_code for future in held} == {200}
    ids = [line.split()[1] for line in balancer.begun()[first:] if line.startswith("begin")]
    assert len(ids) == 6
    assert len(set(ids)) == 4
    wait_for(lambda: all(worker["ready"] for worker in balancer.stats()["workers"]))
    assert balancer.ask("hello").status_code == 200


def test_a_crash_that_happens_once_is_not_seen_by_the_client(balancer: RunningBalancer, tmp_path: Path) -> None:
    response = balancer.ask(f"crash-once:{tmp_path / 'crashed'}")
    assert response.status_code == 200
    assert response.json()["choices"][0]["finish_reason"] == "stop"


def test_a_request_that_kills_every_worker_is_given_up(balancer: RunningBalancer) -> None:
    response = balancer.ask("crash")
    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    assert "3 attempts" in response.json()["error"]["message"]
    wait_for(lambda: all(worker["ready"] for worker in balancer.stats()["workers"]))
    assert balancer.ask("hello").status_code == 200


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBalancer]:
    """Another balancer on the same machine: two pretended GPUs, and a key."""
    folder = tmp_path_factory.mktemp("second")
    (folder / "key").write_text("open-sesame\n")
    flags = ("--device", "cuda", "--api-key-file", str(folder / "key"))
    path = os.pathsep.join((import_path(folder, num_gpus=6), environment()["PYTHONPATH"]))
    pretended = {"CUDA_VISIBLE_DEVICES": "3,5", "PYTHONPATH": path}
    running = start_balancer(folder, *flags, extra_environment=pretended)
    yield running
    running.terminate()


def test_two_balancers_do_not_meet(balancer: RunningBalancer, second: RunningBalancer) -> None:
    assert private_folder(second.process.pid) != private_folder(balancer.process.pid)
    assert not set(second.tree()) & set(balancer.tree())
    key = {"Authorization": "Bearer open-sesame"}
    body = {"messages": [{"role": "user", "content": "from the second"}]}
    reply = httpx.post(second.url + "/v1/chat/completions", json=body, headers=key, timeout=60)
    assert reply.json()["choices"][0]["message"]["content"] == "ar from the second"
    request_id = reply.json()["id"].removeprefix("chatcmpl-")
    assert any(request_id in line for line in second.begun())
    assert not any(request_id in line for line in balancer.begun())
    assert balancer.ask("hello").status_code == 200


def test_each_worker_sees_one_gpu(second: RunningBalancer) -> None:
    workers = second.ready["workers"]
    assert [worker["device"] for worker in workers] == ["cuda", "cuda"]
    assert sorted(worker["device_name"] for worker in workers) == ["GPU 3", "GPU 5"]


def test_workers_have_different_gpus_also_after_a_death(tmp_path: Path) -> None:
    """GPUs and parts of GPUs, named as Slurm and people name them."""
    names = ["GPU-5f1c", "MIG-7b20", "2"]
    path = os.pathsep.join((import_path(tmp_path, num_gpus=3), environment()["PYTHONPATH"]))
    pretended = {"CUDA_VISIBLE_DEVICES": ",".join(names), "PYTHONPATH": path}
    flags = ("--device", "cuda", "--num-workers", "3")
    running = start_balancer(tmp_path, *flags, extra_environment=pretended)
    try:
        assert sorted(worker["device_name"] for worker in running.ready["workers"]) == sorted(f"GPU {n}" for n in names)
        assert running.ask(f"crash-once:{tmp_path / 'crashed'}").status_code == 200
        wait_for(lambda: all(worker["ready"] for worker in running.stats()["workers"]))
        first = len(running.begun())
        with ThreadPoolExecutor(3) as threads:
            held = [threads.submit(running.ask, f"wait:{tmp_path / 'gate'}") for _ in range(3)]
            wait_for(lambda: running.stats()["balancer"]["running"] == 3)
            (tmp_path / "gate").touch()
            assert {future.result().status_code for future in held} == {200}
        assert sorted(line.split(" on ")[1] for line in running.begun()[first:]) == sorted(names)
    finally:
        running.terminate()


def test_the_key_is_asked_for_everywhere_but_health(second: RunningBalancer) -> None:
    assert second.ask("hello").status_code == 401
    assert httpx.get(second.url + "/stats").status_code == 401
    assert httpx.get(second.url + "/health").status_code == 200
    allowed = httpx.get(second.url + "/v1/models", headers={"Authorization": "Bearer open-sesame"})
    assert allowed.status_code == 200


def test_sigkill_leaves_nothing(tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path)
    folder = private_folder(balancer.process.pid)
    pids = balancer.tree()
    assert len(pids) > 4
    balancer.process.kill()
    balancer.process.wait()
    wait_for(lambda: all_gone(pids, folder))


def test_sigterm_answers_what_runs_and_leaves_nothing(tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path, "--grace", "0")
    folder = private_folder(balancer.process.pid)
    pids = balancer.tree()
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(balancer.ask, f"wait:{tmp_path / 'never'}")
        wait_for(lambda: balancer.stats()["balancer"]["running"] == 1)
        assert balancer.terminate() == 0
        assert held.result().status_code == 503
        assert int(held.result().headers["retry-after"]) >= 1
    assert all_gone(pids, folder)
    assert not (tmp_path / "ready.json").exists()


def test_after_sigterm_requests_get_time_to_end_and_new_ones_are_refused(tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path, "--grace", "600", "--max-in-flight", "1")
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(4) as threads:
        held = [threads.submit(balancer.ask, f"wait:{gate}") for _ in range(3)]  # two run, one waits
        streamed = threads.submit(balancer.ask, f"one wait:{gate}", stream=True)
        wait_for(lambda: balancer.stats()["balancer"]["waiting"] == 2)
        balancer.process.terminate()
        wait_for(lambda: httpx.get(balancer.url + "/health").json()["status"] == "stopping")
        refused = balancer.ask("one more")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert not any(future.done() for future in [*held, streamed])
        gate.touch()
        assert {future.result().status_code for future in held} == {200}
        assert read_events(streamed.result().text).text() == f"ar one wait:{gate}"
    assert balancer.process.wait(180) == 0


def test_a_worker_that_hangs_is_replaced_and_its_requests_go_on(tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path, "--hang-timeout", "5")
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(4) as threads:
        held = [threads.submit(balancer.ask, f"one wait:{gate}", stream=number < 2) for number in range(4)]
        wait_for(lambda: balancer.stats()["balancer"]["running"] == 4)
        workers = balancer.stats()["workers"]
        assert [worker["running"] for worker in workers] == [2, 2]
        os.kill(workers[0]["pid"], signal.SIGSTOP)
        wait_for(lambda: balancer.stats()["balancer"]["restarts"] == 1)
        gate.touch()
        answers = [future.result() for future in held]
    assert {answer.status_code for answer in answers} == {200}
    assert {read_events(answer.text).text() for answer in answers[:2]} == {f"ar one wait:{gate}"}
    assert not alive(workers[0]["pid"])
    assert [worker["deaths"] for worker in balancer.stats()["workers"]] == [1, 0]
    assert "worker 0 was ended: no step within 5 s" in (tmp_path / "balancer.log").read_text()
    assert balancer.terminate() == 0


def test_a_worker_that_hangs_while_it_loads_is_ended_and_the_other_one_serves(tmp_path: Path) -> None:
    flags = ("--model", str(tmp_path / "hangs-once"), "--served-model-name", "tri", "--start-timeout", "120")
    balancer = start_balancer(tmp_path, *flags)
    log = (tmp_path / "balancer.log").read_text()
    assert re.search(r"worker [01] was not ready within 120 s and was ended", log)
    assert "worker_" in log
    assert "raise --start-timeout" in log
    assert balancer.ask("hello").status_code == 200
    wait_for(lambda: balancer.stats()["balancer"]["restarts"] == 1)
    assert httpx.get(balancer.url + "/health").json()["workers_ready"] == 2
    assert balancer.terminate() == 0


def test_a_second_sigterm_ends_the_grace(tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path, "--grace", "600")
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(balancer.ask, f"one wait:{tmp_path / 'never'}", stream=True)
        wait_for(lambda: balancer.stats()["balancer"]["running"] == 1)
        balancer.process.terminate()
        wait_for(lambda: httpx.get(balancer.url + "/health").json()["status"] == "stopping")
        assert balancer.terminate() == 0
        events = read_events(held.result().text)
    assert events.chunks[-1]["error"]["message"] == "the server is stopping"


def test_sigterm_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path), env=environment(), stderr=subprocess.DEVNULL)
    started: list[Path] = []

    def ray_is_coming_up() -> bool:
        folder = private_folder(process.pid)
        started[:] = [folder]
        return folder.name.startswith("trimode-balancer-")

    wait_for(ray_is_coming_up)
    process.terminate()
    assert process.wait(180) == 0
    assert not started[0].exists()


def test_an_idle_worker_that_dies_repeatedly_ends_the_balancer_but_a_request_never_does(tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path, "--max-worker-deaths", "1", "--num-workers", "1")
    for _ in range(2):
        response = balancer.ask("crash")
        assert response.status_code == 500
        assert "3 attempts" in response.json()["error"]["message"]
    assert balancer.ask("hello").status_code == 200
    os.kill(worker_pids(balancer)[0], signal.SIGKILL)
    assert balancer.process.wait(180) == 1
    assert "error: worker 0 died" in (tmp_path / "balancer.log").read_text()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (
            ["--model", "/nowhere/unloadable", "--num-workers", "1"],
            1,
            "error: worker 0 cannot start: the checkpoint lacks model.safetensors\n",
        ),
        (
            ["--worker-class", "trimode.tests.fakes.worker:Nobody", "--num-workers", "1"],
            1,
            "error: worker 0 cannot start: AttributeError: module",
        ),
        (["--device", "cuda"], 2, "error: --device: got cuda, but this process sees no GPU; valid here: cpu\n"),
        (["--host", "0.0.0.0"], 2, "error: --host: got 0.0.0.0"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(tmp_path: Path, flags: list[str], status: int, message: str) -> None:
    env = {**environment(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command(tmp_path), *flags], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status
    errors = [line for line in done.stderr.splitlines(keepends=True) if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith(message)


def test_a_taken_port_is_refused_before_anything_starts(balancer: RunningBalancer, tmp_path: Path) -> None:
    port = balancer.url.rpartition(":")[2]
    done = subprocess.run(
        [*command(tmp_path), "--port", port],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert f"--port: got 127.0.0.1:{port}" in done.stderr


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
@pytest.mark.parametrize("busy", [False, True])
def test_the_end_of_ray_is_the_end_of_the_server(name: str, busy: bool, tmp_path: Path) -> None:
    balancer = start_balancer(tmp_path)
    folder = private_folder(balancer.process.pid)
    pids = balancer.tree()
    with ThreadPoolExecutor(1) as threads:
        if busy:
            held = threads.submit(balancer.ask, f"wait:{tmp_path / 'never'}")
            wait_for(lambda: balancer.stats()["balancer"]["running"] == 1)
        os.kill(next(pid for pid in pids if psutil.Process(pid).name() == name), signal.SIGKILL)
        assert balancer.process.wait(180) == 1
        if busy:
            assert held.result().status_code == 503
    assert f"Ray's {name} was killed or has ended" in (tmp_path / "balancer.log").read_text()
    wait_for(lambda: all_gone(pids, folder))
    assert not (tmp_path / "ready.json").exists()
