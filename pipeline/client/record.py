"""What is stored of one answer: the row before scoring, and the line of the ledger."""

from __future__ import annotations

from trimode.core.protocol import Row
from trimode.pipeline.benchmarks import Benchmark
from trimode.pipeline.client.answer import Answer
from trimode.pipeline.run_folder.nfe import NfeRecord
from trimode.pipeline.run_folder.rows import ERROR_KIND, LEDGER, POSITION
from trimode.pipeline.scoring.registry import OWN_KEYS, REPLY_KEYS, scorer_of
from trimode.pipeline.spec import JobSpec


def reply_keys(benchmark: Benchmark) -> set[str]:
    """Returns the fields of a row that only the reply may set: data fields of these names are left out."""
    return {*REPLY_KEYS, benchmark.generation_key, *OWN_KEYS, POSITION, LEDGER}


def verdict_keys(benchmark: Benchmark) -> set[str]:
    """Returns the fields of a row that only its scorer may set."""
    return {*scorer_of(benchmark).VERDICT_KEYS, "scoring_error"}


def answered_row(benchmark: Benchmark, data: Row, answer: Answer) -> Row:
    """Returns the row that NeMo-Skills builds from a reply, before scoring: reply keys, then the data's other fields.

    A data field with the name of a reply's field is left out, so the data cannot stand in for an answer.
    """
    message: Row = {"content": answer.text, "role": "assistant", "tool_calls": None, "function_call": None}
    row: Row = {
        benchmark.generation_key: answer.text,
        "num_generated_tokens": answer.cost.completion_tokens,
        "finish_reason": answer.finish_reason,
        "serialized_output": [message] if answer.error is None else [],
    }
    if answer.reasoning is not None:
        row["reasoning_content"] = message["reasoning_content"] = answer.reasoning
    if answer.reasoning_tokens is not None:
        row["num_reasoning_tokens"] = answer.reasoning_tokens
        row["num_answer_tokens"] = answer.cost.completion_tokens - answer.reasoning_tokens
    if answer.error is not None:
        row["error"] = answer.error
        row[ERROR_KIND] = answer.error_kind
    row["generation_start_time"] = answer.started_at
    row["generation_end_time"] = answer.ended_at
    row["generation_time"] = answer.ended_at - answer.started_at
    taken = reply_keys(benchmark)
    return row | {key: value for key, value in data.items() if key not in taken}


def judged_row(benchmark: Benchmark, row: Row, verdict: Row) -> Row:
    """Returns a row with its verdict. Fields of an earlier verdict, or of the data in its place, are left out."""
    taken = verdict_keys(benchmark)
    return {key: value for key, value in row.items() if key not in taken} | verdict


def nfe_record(spec: JobSpec, key: tuple[str, int, int], answer: Answer) -> NfeRecord:
    """Returns the ledger record of one answer. `key`: benchmark, seed, position."""
    benchmark, seed, position = key
    return NfeRecord(
        request_id=answer.request_id,
        benchmark=benchmark,
        sample_id=position,
        seed=seed,
        mode=spec.decode.mode.value,
        lora=spec.decode.lora,
        finish_reason=answer.finish_reason,
        cost=answer.cost,
        error=answer.error,
    )
