"""Turns a prepared row into the one user message the model sees, byte for byte as NeMo-Skills builds it.

Knows no data files, no scorers and no chat template; that last one belongs to whoever tokenizes.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark


def user_message(benchmark: Benchmark, row: Mapping[str, object]) -> str:
    """The text of the user turn: the benchmark's prompt with the row's fields filled in once (a row's braces stay).

    Raises ConfigError when the row lacks a field that the prompt names.
    """
    try:
        return benchmark.prompt.format_map(row)
    except KeyError as error:
        raise ConfigError(
            f"the prompt of {benchmark.name} names {error}, which the row lacks; the row has: {', '.join(sorted(row))}"
        ) from error


def chat_messages(benchmark: Benchmark, row: Mapping[str, object]) -> list[dict[str, str]]:
    """The `messages` of a chat request: one user turn, no system turn."""
    return [{"role": "user", "content": user_message(benchmark, row)}]
