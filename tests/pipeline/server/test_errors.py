"""Error bodies of many servers as one line."""

from __future__ import annotations

import pytest
from trimode.pipeline.server.errors import MAX_MESSAGE, error_message, explain_status
from trimode.pipeline.spec import ServerSpec

SERVER = ServerSpec(url="http://h/v1", engine="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"error": {"message": "too\\n long", "code": 1}}', "too long"),
        ('{"error": "plain"}', "plain"),
        ('{"object": "error", "message": "as vLLM once did"}', "as vLLM once did"),
        ('{"detail": "Not Found"}', "Not Found"),
        ("<html>bad gateway</html>", "<html>bad gateway</html>"),
        ("", "no message"),
        ('{"error": {"code": 7}}', '{"error": {"code": 7}}'),
        ("[1, 2]", "[1, 2]"),
        ("\x1b[2Jgone\x07", "[2Jgone"),
    ],
)
def test_the_message_is_found(text: str, message: str) -> None:
    assert error_message(text) == message


def test_a_long_page_is_cut() -> None:
    assert len(error_message("x" * 10_000)) == MAX_MESSAGE


@pytest.mark.parametrize(
    ("status", "said", "advice"),
    [
        (400, "This model's maximum context length is 2048 tokens", "fewer tokens per answer"),
        (404, "The model x does not exist", "http://h/v1/models lists"),
        (429, "Rate limit reached", "--max-in-flight"),
        (401, "Unauthorized", "none was given"),
        (400, "bad field", ""),
    ],
)
def test_advice_follows_what_the_server_says(status: int, said: str, advice: str) -> None:
    text = explain_status(SERVER, status, said)
    assert text.startswith(f"HTTP {status}: {said}")
    assert advice in text
