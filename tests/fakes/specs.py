"""Job specs over made-up gsm8k rows, and jobs in processes of their own against the fake balancer."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from trimode.core.protocol import Mode
from trimode.pipeline.spec import (
    ClientKind,
    ClientSpec,
    DecodeSpec,
    Device,
    DType,
    Executor,
    JobSpec,
    ModelSpec,
    ResourceSpec,
    TaskSpec,
)


def write_data(data_dir: Path, num_rows: int) -> Path:
    """A prepared gsm8k file of `num_rows` small problems; each ends in its answer."""
    path = data_dir / "gsm8k" / "test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "problem": f"Problem {index}: say {index * 7}",
            "expected_answer": index * 7,
            "reference_solution": "\u201cno\u201d",
        }
        for index in range(num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data_dir


def decode_spec(**changes: Any) -> DecodeSpec:
    spec = DecodeSpec(
        mode=Mode.linear_spec,
        lora=False,
        lora_path=None,
        block_length=32,
        threshold=0.0,
        temperature=0.0,
        top_p=0.95,
        max_new_tokens=256,
        enable_thinking=False,
        max_thinking_tokens=None,
        eos_early_stop=True,
    )
    return dataclasses.replace(spec, **changes)


def client_spec(**changes: Any) -> ClientSpec:
    spec = ClientSpec(
        kind=ClientKind.embedded, max_concurrent_requests=4, max_num_seqs=4, request_timeout_s=60.0, num_scorers=1
    )
    return dataclasses.replace(spec, **changes)


def task_spec(limit: int | None = None, seeds: tuple[int, ...] = (0,)) -> TaskSpec:
    return TaskSpec(benchmark="gsm8k", repeats=len(seeds), seeds=seeds, num_samples=1319, limit=limit)


def job_spec(folder: Path, tasks: tuple[TaskSpec, ...] = (task_spec(),), **changes: Any) -> JobSpec:
    spec = JobSpec(
        index=0,
        name="fake",
        exp_name="fake",
        run_dir=str(folder / "run"),
        decode=decode_spec(),
        model=ModelSpec(path=str(folder / "model"), tokenizer=None, dtype=DType.float32, max_position_embeddings=None),
        tasks=tasks,
        resources=ResourceSpec(
            cluster="local",
            executor=Executor.local,
            device=Device.cpu,
            num_gpus=0,
            num_workers=1,
            time_limit_min=10,
        ),
        client=client_spec(),
        data_dir=str(folder / "data"),
        identity={"model": "fake"},
    )
    return dataclasses.replace(spec, **changes)


def start_job(
    spec: JobSpec, folder: Path, behaviour: dict[str, object] | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Starts a job in a process of its own, against a fake balancer that behaves as told. `variables`: environment."""
    path = folder / "spec.pickle"
    path.write_bytes(pickle.dumps(spec))
    root = Path(__file__).resolve().parents[2]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(root / ".types"),
        "PYTHONSAFEPATH": "1",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "FAKE_BALANCER": json.dumps(behaviour or {}),
        **variables,
    }
    command = [sys.executable, str(Path(__file__).with_name("job_process.py")), str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
