"""Turns a prepared row into the one user message that the model sees, byte for byte as NeMo-Skills builds it.

The chat template is applied by whoever tokenizes.
"""

from __future__ import annotations

from collections.abc import Mapping

from trimode.core.errors import ConfigError
from trimode.pipeline.benchmarks import Benchmark


def user_message(benchmark: Benchmark, row: Mapping[str, object]) -> str:
    """Returns the text of the user turn: the benchmark's prompt with the row's fields filled in.

    Braces in a row's text stay as they are. Raises ConfigError if the row lacks a field that the prompt names, or a
    field has no form that the prompt asks for.
    """
    try:
        return benchmark.prompt.format_map(row)
    except KeyError as error:
        raise ConfigError(
            f"the prompt of {benchmark.name} names {error}, which the row lacks; the row has: {', '.join(sorted(row))}"
        ) from error
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise ConfigError(f"the prompt of {benchmark.name} cannot be filled in: {error}") from error


def chat_messages(benchmark: Benchmark, row: Mapping[str, object]) -> list[dict[str, str]]:
    """Returns the `messages` of a chat request: one user turn, no system turn."""
    return [{"role": "user", "content": user_message(benchmark, row)}]
