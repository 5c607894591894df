"""The address of a server, and how a request to it is authorised."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from trimode.core.errors import ConfigError
from trimode.pipeline.spec import ServerSpec

NO_KEY = "EMPTY"
"""Sent as the key where none is set: servers without a key ignore it, and some clients of the field send the same."""
VALID_URL = "http://HOST:PORT, with or without /v1"


def api_base(url: str) -> str:
    """Returns the address that routes are appended to: `/v1` is added unless the path ends in a version.

    Raises ConfigError for what is no address, and for one with a user, a password, a query or a fragment: addresses are
    written to files.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"address of a server: got {url!r} ({error}); valid: {VALID_URL}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", url.strip()):
        raise ConfigError(f"address of a server: got {url!r}; valid: {VALID_URL}")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "address of a server: got one with a user or password, which run folders would hold; valid: the address "
            "alone, and the key in a file (--api-key-file)"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"address of a server: got {url!r}; valid: {VALID_URL}, without ? and #")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    base = base.removesuffix("/chat/completions")
    return base if re.search(r"/v[0-9]+[a-z0-9]*$", base) else f"{base}/v1"


def is_loopback(base: str) -> bool:
    """True if the server is on this machine. Proxies of the environment are not asked for it."""
    host = urlsplit(base).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def headers(server: ServerSpec) -> dict[str, str]:
    """Returns the headers of every request. Raises ConfigError if the key cannot be read."""
    return {"Authorization": f"Bearer {read_key(server.api_key_file) or NO_KEY}"}


def read_key(path: str | None) -> str | None:
    """Returns the key in a file; None without a file. Raises ConfigError if there is none in it."""
    if path is None:
        return None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--api-key-file: got {path}, which cannot be read ({reason})") from error
    if not key or not key.isprintable() or not key.isascii() or " " in key:
        raise ConfigError(f"--api-key-file: {path} holds no key; valid: one key in one line")
    return key
