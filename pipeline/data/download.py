"""Downloads one raw file with pooch, from the first address that has it, and checks it against its published checksum.

pooch streams the file and draws the progress bar. Added here: retries only where they can help, several addresses,
checksums of the content of a .gz, and a rename at the end, so that no half file is found under the final name.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from trimode.core.errors import ConfigError
from trimode.pipeline.data.sources import RawFile

_CHUNK = 1 << 20
"""Bytes per read."""
_TIMEOUT_S = 30.0
"""Seconds without an answer or without new data after which a download fails."""
_BUSY = frozenset((429, 500, 502, 503, 504))
"""HTTP statuses of a server that may answer later."""
HUB_HOST = "huggingface.co"


def content_sha256(path: Path) -> str:
    """Returns the sha256 of a file's content, after gunzip for a .gz. Raises ConfigError for a damaged .gz."""
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged or cut short ({error})") from error
    return digest.hexdigest()


def check(file: RawFile, path: Path) -> None:
    """Raises ConfigError if `path` is not the file that was published. A file without a published checksum passes."""
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
    """Downloads `file` to `target` from the first of `urls` that has it. Returns that URL.

    Raises ConfigError with every URL's failure, the exact target path, and the page to visit for a gated file.
    """
    failures: list[str] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        for url in urls:
            try:
                _download(url, part, attempts, wait_s)
            except OSError as error:  # all errors of requests are OSErrors
                failures.append(f"  {url}\n    {_reason(error)}")
            else:
                part.replace(target)
                return url
    finally:
        part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # only if it is empty
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


def _reason(error: OSError) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    return f"{type(error).__name__}: {error}"


def _download(url: str, part: Path, attempts: int, wait_s: float) -> None:
    """Downloads one URL to `part`. Tries again with a doubling wait while the error may pass."""
    headers = {}
    if urlsplit(url).hostname == HUB_HOST and (token := hub_token()):
        headers["Authorization"] = f"Bearer {token}"
    print(f"downloading {url}", file=sys.stderr, flush=True)
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=_CHUNK, headers=headers, timeout=_TIMEOUT_S
    )
    for attempt in range(1, attempts + 1):
        try:
            download(url, str(part), None)
            return
        except requests.RequestException as error:
            if error.response is not None:
                error.response.close()
            if attempt == attempts or not _may_pass(error):
                raise
        time.sleep(wait_s * 2 ** (attempt - 1))


def _may_pass(error: requests.RequestException) -> bool:
    """True for a busy server, a time-out, and a connection that failed or was dropped."""
    if error.response is not None:
        return error.response.status_code in _BUSY
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)
