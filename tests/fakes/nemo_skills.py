"""Imitates the few commands of NeMo-Skills that the client uses, with its files; FAKE_NEMO_SKILLS makes it misbehave.

Called as: nemo_skills.py FOLDER (-c PROBE | -m MODULE ARGUMENTS...).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx


def options(arguments: list[str], prefix: str) -> dict[str, str]:
    pairs = (item.removeprefix(prefix).partition("=") for item in arguments if item.startswith(prefix))
    return {name: value for name, _, value in pairs}


def ask(flags: dict[str, str], overrides: dict[str, str], row: dict[str, Any], seed: int) -> dict[str, Any]:
    extra = {name.rpartition(".")[2]: json.loads(value) for name, value in overrides.items() if ".extra_body." in name}
    content = (
        "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"
        + row["problem"]
    )
    body = {"messages": [{"role": "user", "content": content}], "model": flags["model"], "seed": seed, **extra}
    key = os.environ[overrides["server.api_key_env_var"]]
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{flags['server_address']}/chat/completions"
    reply = httpx.post(url, json=body, headers=headers, trust_env=False).json()
    text = reply["choices"][0]["message"]["content"]
    return {**row, "generation": text, "num_generated_tokens": reply["usage"]["completion_tokens"]}


def evaluate(arguments: list[str], fault: str) -> None:
    overrides = options(arguments, "++")
    flags = options([item for item in arguments if not item.startswith("++")], "--")
    name, _, repeats = flags["benchmarks"].partition(":")
    data = Path(flags["data_dir"]) / name / "test.jsonl"
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    first = int(flags["starting_seed"])
    for seed in range(first, first + int(repeats)):
        output = Path(flags["output_dir"]) / "eval-results" / name / f"output-rs{seed}.jsonl"
        output.parent.mkdir(parents=True, exist_ok=True)
        pending = output.with_name(output.name + "-async")
        if output.with_name(output.name + ".done").exists():
            continue
        lines = pending.read_text(encoding="utf-8").split("\n")[:-1] if pending.exists() else []
        done = {json.loads(line)["_async_position"]: json.loads(line) for line in lines}
        for position, row in enumerate(rows):
            if position in done:
                continue
            if fault == f"stop-after:{position}":
                sys.exit(9)
            done[position] = ask(flags, overrides, row, seed) | {"_async_position": position}
            with pending.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[position]) + "\n")
        kept = sorted(done)[: -1 if fault == "forget-last" else None]
        for row in done.values():
            row.pop("_async_position")
        output.write_text("".join(json.dumps(done[position]) + "\n" for position in kept), encoding="utf-8")
        pending.unlink()
        output.with_name(output.name + ".done").touch()


def summarize(arguments: list[str]) -> None:
    flags = options(arguments, "--")
    files = sorted((Path(arguments[0]) / flags["benchmarks"]).glob("output*.jsonl"))
    count = len(files[0].read_text(encoding="utf-8").splitlines())
    metrics = {flags["benchmarks"]: {"pass@1": {"num_entries": count, "symbolic_correct": 0.0}}}
    Path(flags["save_metrics_path"]).write_text(json.dumps(metrics), encoding="utf-8")


def main() -> None:
    folder, switch, what, *arguments = sys.argv[1:]
    fault = os.environ.get("FAKE_NEMO_SKILLS", "")
    if switch == "-c":
        version = fault.removeprefix("version:") if fault.startswith("version:") else "0.7.0"
        print(json.dumps(None if version == "none" else [version, f"{folder}/nemo_skills"]))
        return
    seen = [os.environ["PATH"], os.environ.get("PYTHONSAFEPATH")]
    (Path(folder) / "environment.json").write_text(json.dumps(seen), encoding="utf-8")
    if what == "nemo_skills.pipeline.eval":
        if fault == "leave-child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            (Path(folder) / "child").write_text(str(child.pid), encoding="utf-8")
        evaluate(arguments, fault)
    elif fault != "no-metrics":
        summarize(arguments)


main()
