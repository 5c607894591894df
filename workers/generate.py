"""`python -m trimode.workers.generate`: answers the rows of a jsonl file on one device, all modes together.

Reads rows {"id", one of "prompt_ids" | "messages" | "prompt", "mode", ...} and writes one line per row, in order. With
`--engine hf` the released remote code answers them one by one, for parity checks. Exit status 1 if any row failed, 2
if nothing could start.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from trimode.core.errors import USER_ERROR, ConfigError, GenerationError, guarded
from trimode.core.files import write_text_atomic
from trimode.core.protocol import Generation, WorkerSettings
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.runtime import Runtime

OUTPUT_KEYS = ("token_ids", "text", "finish_reason", "nfe", "forwards", "trace")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trimode.workers.generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--lora", help='adapter folder; rows turn it on with "lora": true')
    parser.add_argument("--tokenizer", help="tokenizer folder (default: the model's own)")
    parser.add_argument("--input", required=True, type=Path, help="rows, one JSON object per line")
    parser.add_argument("--output", required=True, type=Path, help="answers, one JSON object per line")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"), help="default: bfloat16")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:N (default: auto)")
    parser.add_argument("--max-num-seqs", type=int, default=32, help="rows decoded together (default: 32)")
    parser.add_argument("--kv-cache-gb", type=float, help="KV cache budget in GiB (default: a share of free memory)")
    parser.add_argument("--engine", default="native", choices=("native", "hf"), help="hf: the released code, batch 1")
    parser.add_argument("--trust-remote-code", action="store_true", help="hf: run the checkpoint's Python files")
    parser.add_argument("--revision", help="hf: full commit of a hub id, or the hash of a folder (asked for by name)")
    return parser.parse_args()


def _rows(path: Path) -> Iterator[tuple[object, dict[str, object] | str]]:
    """Yields (id, fields) of each line, or (id, error message) if the line is no row."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--input {path}: {error}") from None
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"line {number + 1} is not JSON: {error}"
            continue
        if isinstance(row, dict):
            yield row.get("id", number), row
        else:
            yield number, f"line {number + 1}: got {type(row).__name__}; valid: an object"


def _shown(generation: Generation) -> dict[str, object]:
    every = generation.to_json()
    keys = OUTPUT_KEYS if generation.logprobs is None else (*OUTPUT_KEYS, "logprobs")
    return {key: every[key] for key in keys}


def answer(runtime: Runtime, path: Path) -> list[dict[str, object]]:
    """Returns one result per row of `path`, in order: OUTPUT_KEYS (and logprobs if asked for), or {"id", "error"}."""
    results: list[dict[str, object]] = []
    place: dict[Sequence, int] = {}
    for row_id, row in _rows(path):
        results.append({"id": row_id})
        try:
            if isinstance(row, str):
                raise GenerationError(row)
            place[runtime.submit(str(row_id), row)] = len(results) - 1
        except GenerationError as error:
            results[-1]["error"] = error.message
    while runtime.engine.busy:
        for sequence in runtime.engine.step():
            result = results[place[sequence]]
            if sequence.error is not None:
                result["error"] = sequence.error.message
            else:
                result |= _shown(runtime.generation(sequence))
    return results


def answer_one_by_one(generate: Callable[[str, dict[str, object]], Generation], path: Path) -> list[dict[str, object]]:
    """Returns the same as `answer`, calling `generate` once per row."""
    results: list[dict[str, object]] = []
    for row_id, row in _rows(path):
        results.append({"id": row_id})
        try:
            if isinstance(row, str):
                raise GenerationError(row)
            results[-1] |= _shown(generate(str(row_id), row))
        except GenerationError as error:
            results[-1]["error"] = error.message
    return results


def _answer_by_reference(settings: WorkerSettings, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Answers all rows with the released code. Each result names the revision of that code."""
    from trimode.workers.hf import HfReference  # slow to import, and the native engine needs none of it

    reference = HfReference(settings, trust_remote_code=arguments.trust_remote_code)
    results = answer_one_by_one(reference.generate, arguments.input)
    return [{**result, "revision": reference.revision} for result in results]


def main() -> int:
    """Runs the command line. Returns the exit status."""
    arguments = _arguments()
    settings = WorkerSettings.from_flags(vars(arguments))
    return guarded(lambda: _generate(settings, arguments), failed=USER_ERROR)


def _generate(settings: WorkerSettings, arguments: argparse.Namespace) -> int:
    """Answers every row; returns 1 if any failed. Raises ConfigError or WorkerError when nothing can start."""
    if not arguments.input.exists():
        raise ConfigError(f"--input {arguments.input}: no such file")
    if arguments.engine == "hf":
        results = _answer_by_reference(settings, arguments)
    elif arguments.trust_remote_code or arguments.revision:
        raise ConfigError("--trust-remote-code and --revision: valid with --engine hf only; native runs no remote code")
    else:
        results = answer(Runtime(settings), arguments.input)
    write_text_atomic(arguments.output, "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results))
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
