"""Names a run folder after what changes its answers, and nothing else: the same command finds the same folder again.

Reads weights only as far as a fingerprint needs; knows no jobs and no results.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

from trimode.pipeline.benchmarks import benchmark_names, load_benchmark
from trimode.pipeline.spec import DecodeSpec, ModelSpec

WHOLE_FILE_BYTES = 4 << 20
"""Smaller files are read whole, larger ones in samples."""
NUM_SAMPLES = 64
SAMPLE_BYTES = 16 << 10
FINGERPRINTED = (".json", ".safetensors", ".jinja", ".model", ".txt")
"""Endings of the files of a checkpoint that can change an answer."""


def eval_dir_name(identity: dict[str, object]) -> str:
    """`eval_` and a short hash of the identity."""
    return "eval_" + _digest(identity)[:12]


def run_identity(
    decode: DecodeSpec, model: ModelSpec, fingerprints: dict[str, str | None], starting_seed: int
) -> dict[str, object]:
    """What changes the answers of a run. Not limit, workers, GPUs, time, the list of benchmarks or their repeats.

    `fingerprints` has weights, adapter and tokenizer; they stand for the paths.
    """
    decoding = dataclasses.asdict(decode)
    del decoding["lora_path"]
    return {
        **fingerprints,
        **decoding,
        "mode": decode.mode.value,
        "dtype": model.dtype,
        "max_position_embeddings": model.max_position_embeddings,
        "starting_seed": starting_seed,
        "prompts": prompts_digest(),
    }


@functools.cache
def prompts_digest() -> str:
    """One hash over the prompts of the whole registry."""
    return _digest({name: load_benchmark(name).prompt_sha256 for name in benchmark_names()})[:16]


def folder_fingerprint(folder: Path) -> str:
    """A hash of a checkpoint or adapter folder, cheap for large weights: names, sizes, and content or samples of it.

    Neither the folder's place nor file times count, so a copy has the fingerprint of its source.
    """
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in FINGERPRINTED and path.is_file():
            total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            total.update(_sampled_digest(path))
    return total.hexdigest()[:16]


def _sampled_digest(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            digest.update(file.read())
        else:
            for index in range(NUM_SAMPLES):
                file.seek(index * (size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
