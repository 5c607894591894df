"""Fetches one raw file over HTTP: progress, retries, checksum, and a rename at the end so that no half file is left.

Knows no benchmark and no format.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from trimode.core.errors import ConfigError
from trimode.pipeline.data.sources import RawFile

_CHUNK = 1 << 20
_RETRIED = frozenset((429, 500, 502, 503, 504))
HUB_HOST = "huggingface.co"


def content_sha256(path: Path) -> str:
    """sha256 of a file's content, after gunzip for a .gz. Raises ConfigError for a damaged .gz."""
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged or cut short ({error})") from error
    return digest.hexdigest()


def check(file: RawFile, path: Path) -> None:
    """Raises ConfigError when `path` is not the file that was published."""
    if file.sha256 is None:
        return
    if (got := content_sha256(path)) != file.sha256:
        raise ConfigError(
            f"{path} is not the published file: sha256 {got}, expected {file.sha256} (of {file.urls[0]}). "
            "Delete it and prepare again, or pass --any-version to take it as it is"
        )


def hub_token() -> str | None:
    """The user's Hugging Face token: HF_TOKEN, else the file HF_TOKEN_FILE names, else that of `hf auth login`."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    path = Path(os.environ.get("HF_TOKEN_FILE") or home / "token").expanduser()
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def fetch(file: RawFile, urls: tuple[str, ...], target: Path, *, attempts: int = 3, wait_s: float = 1.0) -> str:
    """Downloads `file` from the first of `urls` that answers to `target`; returns the URL that did.

    Raises ConfigError with every URL's failure, the exact target path, and the page to visit for a gated file.
    """
    failures: list[str] = []
    part = target.with_name(f".{os.getpid()}.{target.name}")
    for url in urls:
        try:
            _download(url, part, attempts, wait_s)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            failures.append(f"  {url}\n    {_reason(error)}")
            part.unlink(missing_ok=True)
            continue
        part.replace(target)
        return url
    terms = ""
    if file.terms:
        terms = (
            f"This file is gated: accept its terms at {file.terms}, make a token at "
            f"https://{HUB_HOST}/settings/tokens, and run again with HF_TOKEN=<token> (or after `hf auth login`).\n"
        )
    raise ConfigError(
        f"could not download {file.name}:\n" + "\n".join(failures) + f"\n{terms}"
        f"Without network here: fetch that URL elsewhere and put the file at {target.absolute()}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}"


def _download(url: str, part: Path, attempts: int, wait_s: float) -> None:
    """One URL to `part`, again after a dropped connection or from a busy server, with a doubling wait."""
    for attempt in range(1, attempts + 1):
        try:
            return _stream(url, part)
        except httpx.HTTPStatusError as error:
            if attempt == attempts or error.response.status_code not in _RETRIED:
                raise
        except httpx.TransportError as error:
            if attempt == attempts or isinstance(error, httpx.ConnectError):
                raise
        time.sleep(wait_s * 2 ** (attempt - 1))
    return None


def _stream(url: str, part: Path) -> None:
    headers = {}
    if urlsplit(url).hostname == HUB_HOST and (token := hub_token()):
        headers["Authorization"] = f"Bearer {token}"
    timeout = httpx.Timeout(30.0)
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
        response.raise_for_status()
        part.parent.mkdir(parents=True, exist_ok=True)
        size = int(response.headers.get("Content-Length", 0)) or None
        with part.open("wb") as file, _bar(url.rsplit("/", 1)[-1], size) as progress:
            for chunk in response.iter_bytes(_CHUNK):
                file.write(chunk)
                progress.advance(progress.task_ids[0], len(chunk))


@contextmanager
def _bar(name: str, size: int | None) -> Iterator[Progress]:
    """A bar on stderr; nothing but a last line where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        progress.add_task(name, total=size)
        yield progress
