"""Code taken out of replies."""

from __future__ import annotations

import pytest
from trimode.pipeline.scoring.code.extract import extract_code
from trimode.tests.goldens import rows


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nbye", "x = 1"),
        ("```\na\n```\n```python\nb\n```", "b"),
        ("```python3\nx\n```", "3\nx"),
        ("```python\nunclosed", "unclosed"),
        ("<think>```python\nno\n```</think>yes", "yes"),
        ("<think>never closed", ""),
        ("a\r\nb", "a\nb"),
    ],
)
def test_code(text: str, code: str) -> None:
    assert extract_code(text) == code


def test_agrees_with_nemo_skills() -> None:
    for row in rows("code_extract.jsonl"):
        assert extract_code(row["generation"]) == row["completion"], row["id"]
