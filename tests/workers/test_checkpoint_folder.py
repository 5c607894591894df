"""Where a checkpoint comes from, and what is said if the hub does not give it."""

from __future__ import annotations

from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors
from trimode.core.errors import ConfigError
from trimode.workers.runtime import checkpoint_folder

REPLY = httpx.Response(503, request=httpx.Request("GET", "http://hub.test/x"))


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert checkpoint_folder(str(tmp_path)) == tmp_path
    with pytest.raises(ConfigError, match="valid: none, or a hub id"):
        checkpoint_folder(str(tmp_path), "main")


@pytest.mark.parametrize("name", ["/no/folder", "./none", "one", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="valid: a checkpoint folder or a hub id"):
        checkpoint_folder(name)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.LocalEntryNotFoundError("An error happened\nwhile trying"), "it is not in the hub's cache"),
        (errors.GatedRepoError("401 ... (Request ID: 7)", response=REPLY), "it is gated; valid: accept its licence"),
        (errors.RepositoryNotFoundError("404", response=REPLY), "there is none of this name"),
        (errors.RevisionNotFoundError("404", response=REPLY), "it has no such revision"),
        (errors.HfHubHTTPError("503 Server Error", response=REPLY), "it answered with status 503; try again later"),
        (OSError("No space left on device\nand more"), "No space left on device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_why_the_hub_gave_nothing_is_one_line_of_ours(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def refuse(*_args: object, **_fields: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ConfigError) as caught:
        checkpoint_folder("owner/name")
    message = str(caught.value)
    assert message.startswith(f"model: owner/name is no folder, and the hub did not give it: {words}")
    assert "\n" not in message and "Request ID" not in message
