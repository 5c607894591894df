"""A hub of models on a loopback port: its API, its resolve addresses with redirects and ranges, and every fault."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

from trimode.tests.fakes.loopback import LoopbackServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"
"""Suffix of files that lie in the large-file store, to which the hub redirects."""


class Hub(LoopbackServer):
    """Serves one model while the context is open. Faults are attributes; the client is pointed here by HF_ENDPOINT."""

    def __init__(self, model: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.model, self.files, self.commit = model, files, commit
        self.revisions = {"main": commit, commit: commit}
        self.token: str | None = None
        """The token that is needed; None = none."""
        self.gated = False
        self.cut_after: int | None = None
        """Bytes of a large file after which each connection breaks."""
        self.cuts_left = 0
        self.stall = False
        """True: a connection that is cut stays open and silent until `release`."""
        self.stalled, self.release = threading.Event(), threading.Event()
        self.corrupt: set[str] = set()
        """Files that arrive with one byte changed."""
        self.busy = 0
        """Requests that are answered 503 first."""
        self.requests: list[tuple[str, str, str | None]] = []
        """(method, path, range)."""
        self.tokens_at_store: list[str | None] = []
        super().__init__()

    @property
    def store(self) -> str:
        """The large-file store: another host, so that the client must not send it the token."""
        return self.url.replace("127.0.0.1", "localhost")

    def info(self) -> dict[str, Any]:
        """What the API says of the model with ?blobs=true."""
        siblings = []
        for name, data in self.files.items():
            blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.model, "modelId": self.model, "sha": self.commit, "siblings": siblings, "private": False}

    def tree(self) -> list[dict[str, Any]]:
        """What the API says of the model's files."""
        found = []
        for entry in self.info()["siblings"]:
            lfs = entry.get("lfs")
            item = {"type": "file", "path": entry["rfilename"], "size": entry["size"], "oid": entry["blobId"]}
            found.append(item | ({"lfs": {**lfs, "oid": lfs["sha256"]}} if lfs else {}))
        return found

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                path = self.path.partition("?")[0]
                hub.requests.append((self.command, path, self.headers.get("range")))
                if hub.busy:
                    hub.busy -= 1
                    return self.send(503, b"busy", with_body=with_body)
                if path.startswith("/store/"):
                    hub.tokens_at_store.append(self.headers.get("authorization"))
                    return self.send_file(path.removeprefix("/store/"), with_body)
                if hub.token is not None and self.headers.get("authorization") != f"Bearer {hub.token}":
                    return self.refuse(401, "RepoNotFound", with_body)
                if hub.gated:
                    return self.refuse(403, "GatedRepo", with_body)
                if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+|)(/.*)?", path):
                    return self.api(match[1], match[2], with_body)
                if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    return self.resolve(match[1], match[2], match[3], with_body)
                return self.refuse(404, "RepoNotFound", with_body)

            def api(self, model: str, part: str, with_body: bool) -> None:
                if model != hub.model:
                    return self.refuse(404, "RepoNotFound", with_body)
                kind, _, revision = part.strip("/").partition("/")
                if revision and revision not in hub.revisions:
                    return self.refuse(404, "RevisionNotFound", with_body)
                value = hub.tree() if kind == "tree" else hub.info()
                return self.send(200, json.dumps(value).encode(), {"content-type": "application/json"}, with_body)

            def resolve(self, model: str, revision: str, name: str, with_body: bool) -> None:
                if model != hub.model or revision not in hub.revisions:
                    return self.refuse(404, "RevisionNotFound", with_body)
                if name not in hub.files:
                    return self.refuse(404, "EntryNotFound", with_body)
                data = hub.files[name]
                headers = {"x-repo-commit": hub.commit}
                if not name.endswith(LARGE):
                    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
                    return self.send_file(name, with_body, headers | {"etag": f'"{blob}"'})
                digest = hashlib.sha256(data).hexdigest()
                headers |= {"x-linked-etag": f'"{digest}"', "x-linked-size": str(len(data))}
                return self.send(302, b"", headers | {"location": f"{hub.store}/store/{name}"}, with_body)

            def send_file(self, name: str, with_body: bool, headers: dict[str, str] | None = None) -> None:
                data = hub.files[name]
                if name in hub.corrupt:
                    data = bytes([data[0] ^ 1]) + data[1:]
                start, status = 0, 200
                more = {"accept-ranges": "bytes", **(headers or {})}
                if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
                    start, status = int(match[1]), 206
                    more["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                cut = hub.cut_after if name.endswith(LARGE) and hub.cuts_left and with_body else None
                if cut is not None:
                    hub.cuts_left -= 1
                self.send(status, data[start:], more, with_body, cut)

            def refuse(self, status: int, code: str, with_body: bool) -> None:
                headers = {"x-error-code": code, "x-error-message": "no"}
                self.send(status, b'{"error": "no"}', headers, with_body)

            def send(
                self,
                status: int,
                data: bytes,
                headers: dict[str, str] | None = None,
                with_body: bool = True,
                cut: int | None = None,
            ) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                if with_body:
                    self.wfile.write(data if cut is None else data[:cut])
                if cut is not None:
                    self.close_connection = True
                    if hub.stall:
                        self.wfile.flush()
                        hub.stalled.set()
                        hub.release.wait(120)

            def log_message(self, *_: object) -> None:
                return None

        return Handler
