"""Names a run folder after what changes its answers, and nothing else: the same command finds the same folder again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from trimode.core.protocol import Quantization
from trimode.pipeline.spec import DecodeSpec, ModelSpec

WHOLE_FILE_BYTES = 4 << 20
"""Files up to this size are hashed whole, larger ones by samples."""
NUM_SAMPLES = 64
"""Samples of a large file, spread evenly over it."""
SAMPLE_BYTES = 16 << 10
FINGERPRINTED = (".json", ".safetensors", ".jinja", ".model", ".txt")
"""Suffixes of the files of a checkpoint that can change an answer."""
GREEDY: dict[str, object] = {"top_p": 0.95, "starting_seed": 0}
"""What stands for settings that only sampling reads, at temperature 0: their defaults, which old folders have."""
PROMPTS = "e248f360fbbd2fa2"
"""Stands in every identity, so that folders of release 0.1 keep their names.

It was a hash of the prompts of all benchmarks. Now each run folder records the prompts of its own benchmarks, and
`rounds` compares them.
"""


def eval_dir_name(identity: dict[str, object]) -> str:
    """Returns `eval_` and a short hash of the identity."""
    return "eval_" + _digest(identity)[:12]


def run_identity(
    decode: DecodeSpec, model: ModelSpec, fingerprints: dict[str, str | None], starting_seed: int
) -> dict[str, object]:
    """Returns everything that changes the answers of a run.

    Not part of it: limit, workers, GPUs, time limit, batch invariance, how plain weights are stored, the list of
    benchmarks, their repeats and their prompts, and at temperature 0 what only sampling reads. `fingerprints` (of
    weights, adapter and tokenizer) take the place of the paths; that of a checkpoint which is quantised covers its
    quantisation.
    """
    decoding = dataclasses.asdict(decode)
    del decoding["lora_path"]
    identity: dict[str, object] = {
        **fingerprints,
        **decoding,
        "mode": decode.mode.value,
        "dtype": model.dtype,
        "max_position_embeddings": model.max_position_embeddings,
        "starting_seed": starting_seed,
        "prompts": PROMPTS,
    }
    if model.quantization is not Quantization.none:  # absent otherwise, as in the folders of earlier releases
        identity["quantization"] = model.quantization.value + (" with head" if model.quantize_head else "")
    return identity | GREEDY if decode.temperature == 0 else identity


def folder_fingerprint(folder: Path) -> str:
    """Returns a hash of a checkpoint or adapter folder: of file names, sizes and content, of large files by samples.

    The folder's path and the times of its files do not count, so a copy has the fingerprint of its source.
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
