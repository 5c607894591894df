"""`python -m trimode.workers.generate`: answers the rows of a jsonl file on one device, all modes together.

Reads rows {"id", one of "prompt_ids" | "messages" | "prompt", "mode", ...} and writes one line per row. A line is
written as soon as its row has ended. At the end the lines are put into the order of the rows. With `--engine hf` the
released remote code answers them one by one, for parity checks. Exit status 1 if any row failed, 2 if nothing could
start or the device was lost, 130 if it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from trimode.core.command import INTERRUPTED, run_command
from trimode.core.errors import USER_ERROR, ConfigError, GenerationError, guarded
from trimode.core.model_flags import add_model_flags
from trimode.core.protocol import Generation, WorkerSettings
from trimode.workers.boundary import one_request
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.rows import AnswerFile, InputRow, read_rows
from trimode.workers.runtime import Runtime

OUTPUT_KEYS = ("token_ids", "text", "finish_reason", "nfe", "forwards", "trace")
ROWS_AHEAD = 2
"""Rows in the engine at once, as a multiple of those decoded together: the next ones wait ready for a free slot."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trimode.workers.generate", description=__doc__, allow_abbrev=False)
    add_model_flags(parser)
    parser.add_argument("--lora", help='adapter folder; rows turn it on with "lora": true')
    parser.add_argument("--input", required=True, type=Path, help="rows, one JSON object per line")
    parser.add_argument("--output", required=True, type=Path, help="answers, one JSON object per line")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:N (default: auto)")
    parser.add_argument("--max-num-seqs", type=int, default=32, help="rows decoded together (default: 32)")
    parser.add_argument("--kv-cache-gb", type=float, help="KV cache budget in GiB (default: a share of free memory)")
    parser.add_argument("--engine", default="native", choices=("native", "hf"), help="hf: the released code, batch 1")
    parser.add_argument("--trust-remote-code", action="store_true", help="hf: run the checkpoint's Python files")
    parser.add_argument("--revision", help="hf: full commit of a hub id, or the hash of a folder (asked for by name)")
    return parser.parse_args()


def _shown(generation: Generation) -> dict[str, object]:
    every = generation.to_json()
    keys = OUTPUT_KEYS if generation.logprobs is None else (*OUTPUT_KEYS, "logprobs")
    return {key: every[key] for key in keys}


def answers(runtime: Runtime, path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields (number of the row, its result) as the rows end.

    A result holds the id and OUTPUT_KEYS (and logprobs if asked for), or {"id", "error"}. Rows are read as the engine
    gets room for them.
    """
    engine = runtime.engine
    rows = enumerate(read_rows(path))
    running: dict[Sequence, tuple[int, object]] = {}
    more = True
    while more or engine.busy:
        while more and len(running) < ROWS_AHEAD * engine.max_num_seqs:
            place, row = next(rows, (-1, None))
            if row is None:
                more = False
                break
            try:
                running[runtime.submit(str(place), _fields(row))] = place, row.id
            except GenerationError as error:
                yield place, {"id": row.id, "error": error.message}
        for sequence in engine.step():
            place, row_id = running.pop(sequence)
            yield place, {"id": row_id, **_result(runtime, sequence)}


def answer(runtime: Runtime, path: Path) -> list[dict[str, object]]:
    """Returns one result per row of `path`, in the order of the rows; see `answers`."""
    return [result for _, result in sorted(answers(runtime, path), key=lambda pair: pair[0])]


def answers_one_by_one(
    generate: Callable[[str, Mapping[str, object]], Generation], path: Path
) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields the same as `answers`, calling `generate` once per row."""
    for place, row in enumerate(read_rows(path)):
        try:
            with one_request("the released code"):
                result = _shown(generate(str(place), _fields(row)))
        except GenerationError as error:
            result = {"error": error.message}
        yield place, {"id": row.id, **result}


def _fields(row: InputRow) -> Mapping[str, object]:
    if row.error is not None:
        raise GenerationError(row.error)
    return row.fields


def _result(runtime: Runtime, sequence: Sequence) -> dict[str, object]:
    try:
        if sequence.error is not None:
            raise sequence.error
        return _shown(runtime.generation(sequence))
    except GenerationError as error:
        return {"error": error.message}


def _answers_by_reference(
    settings: WorkerSettings, arguments: argparse.Namespace
) -> Iterator[tuple[int, dict[str, object]]]:
    """Answers all rows with the released code. Each result names the revision of that code."""
    from trimode.workers.hf import HfReference  # slow to import, and the native engine needs none of it

    reference = HfReference(settings, trust_remote_code=arguments.trust_remote_code)
    results = answers_one_by_one(reference.generate, arguments.input)
    return ((place, {**result, "revision": reference.revision}) for place, result in results)


def main() -> int:
    """Runs the command line. Returns the exit status."""
    arguments = _arguments()
    settings = WorkerSettings.from_flags(vars(arguments))
    return guarded(lambda: _generate(settings, arguments), failed=USER_ERROR)


def _generate(settings: WorkerSettings, arguments: argparse.Namespace) -> int:
    """Answers every row; returns 1 if any failed. Raises ConfigError or WorkerError when nothing can start."""
    if not arguments.input.exists():
        raise ConfigError(f"--input {arguments.input}: no such file")
    if arguments.output.exists() and arguments.output.samefile(arguments.input):
        raise ConfigError(f"--output {arguments.output}: got the input file; valid: another file")
    if arguments.engine == "hf":
        results = _answers_by_reference(settings, arguments)
    elif arguments.trust_remote_code or arguments.revision:
        raise ConfigError("--trust-remote-code and --revision: valid with --engine hf only; native runs no remote code")
    else:
        results = answers(Runtime(settings), arguments.input)
    failed = False
    with AnswerFile(arguments.output) as file:
        try:
            for place, result in results:
                file.append(place, result)
                failed = failed or "error" in result
        except KeyboardInterrupt:
            print(f"interrupted: {arguments.output} holds the {len(file)} rows that ended", file=sys.stderr, flush=True)
            return INTERRUPTED
        file.finish()
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
