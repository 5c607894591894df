"""Fetches a checkpoint or its adapter from the hub, at a pinned revision, and checks every file's checksum.

The hub's client says what there is and where; curl downloads. Added here: which revision, checksums, space, and errors
in words.
Started by scripts/fetch_model.sh and scripts/fetch_bundled_lora.sh.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trimode.core.command import run_command
from trimode.core.errors import ConfigError, WorkerError, guarded
from trimode.core.files import locked, write_json_atomic
from trimode.core.project import PROJECT_DIR
from trimode.workers.fetch.download import download

MODEL = "nvidia/Nemotron-Labs-Diffusion-8B"
ADAPTER_FOLDER = "linear_spec_lora"
PINS = PROJECT_DIR / "scripts" / "model_pins.json"
"""Revisions and checksums that belong to the project."""
SOURCE = ".source"
"""File in a fetched folder that says where it is from. Without a suffix, so that it is no part of a fingerprint."""
MODEL_FILES = ("*.json", "*.jinja", "*.safetensors", f"{ADAPTER_FOLDER}/*", "LICENSE*", "README.md")
COMMIT = re.compile(r"[0-9a-f]{40}")
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a revision, as the hub describes it."""

    name: str
    size: int
    sha256: str | None
    """Of a large file; None for one that is in the repository itself."""
    blob: str | None
    """Git's hash of a small file."""


def token() -> str | None:
    """Returns the hub's token: $HF_TOKEN, else the file that $HF_TOKEN_FILE names; None leaves it to the hub's client.

    Raises ConfigError for a file that cannot be read.
    """
    if given := os.environ.get("HF_TOKEN"):
        return given
    if (file := os.environ.get("HF_TOKEN_FILE")) is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"HF_TOKEN_FILE: {file} cannot be read ({error.strerror})") from error


def get_token() -> str | None:
    """Returns `token`, or else what the hub's client knows of a token (`hf auth login`)."""
    import huggingface_hub

    return token() or huggingface_hub.get_token()


def pins() -> dict[str, dict[str, Any]]:
    """Returns the pinned revisions and checksums of the project, by model; an installed wheel has none."""
    if not PINS.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(PINS.read_text(encoding="utf-8"))
    return found


def read_source(folder: Path) -> dict[str, Any]:
    """Returns where a folder was fetched from; empty if that is not known."""
    try:
        found = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def wanted_revision(model: str, given: str | None, source: Mapping[str, Any]) -> str:
    """Returns the revision to ask for: the given one, the project's pin, that of an earlier fetch, or main."""
    pinned = pins().get(model, {}).get("revision")
    earlier = source.get("revision") if source.get("model") == model else None
    return given or pinned or earlier or "main"


def remote_files(model: str, revision: str, patterns: Sequence[str]) -> tuple[str, list[RemoteFile]]:
    """Returns the commit of a revision and its files that match. Raises ConfigError or WorkerError."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(model, revision=revision, files_metadata=True, token=token())
    files = []
    for item in info.siblings or ():
        if any(fnmatch(item.rfilename, pattern) for pattern in patterns):
            sha256 = item.lfs.sha256 if item.lfs else None
            files.append(RemoteFile(name=item.rfilename, size=item.size or 0, sha256=sha256, blob=item.blob_id))
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise WorkerError(f"the hub names no commit for {model} at {revision}: got {info.sha!r}")
    if COMMIT.fullmatch(revision) and info.sha != revision:
        raise ConfigError(f"the hub gave commit {info.sha} for {model} at {revision}")
    if not files:
        raise ConfigError(f"{model} at {revision} has no {' or '.join(patterns)}")
    return info.sha, files


def digests(path: Path) -> tuple[str, str]:
    """Returns the sha256 of a file, and git's hash of it."""
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def check_files(folder: Path, files: Sequence[RemoteFile], known: Mapping[str, str]) -> dict[str, str]:
    """Returns the sha256 of each file by name. `known`: checksums of the project or of an earlier fetch.

    Raises WorkerError naming the files that are not what the hub or `known` says. They are removed, so that the next
    call fetches them again.
    """
    found: dict[str, str] = {}
    wrong: list[str] = []
    for file in files:
        path = folder / file.name
        sha256, blob = digests(path)
        expected = known.get(file.name, file.sha256)
        if (expected is not None and sha256 != expected) or (file.sha256 is None and file.blob not in (None, blob)):
            wrong.append(f"{file.name} (sha256 {sha256}, expected {expected or f'git {file.blob}'})")
            path.unlink()
        found[file.name] = sha256
    if wrong:
        raise WorkerError(f"wrong checksum, removed: {'; '.join(wrong)}; the same command fetches them again")
    return found


def check_room(folder: Path, files: Sequence[RemoteFile]) -> None:
    """Raises ConfigError if the files do not fit on the disk."""
    missing = sum(file.size for file in files if not (folder / file.name).exists())
    free = shutil.disk_usage(folder).free
    if missing > free:
        need, room = f"{missing / 1e9:.2f} GB", f"{free / 1e9:.2f} GB"
        raise ConfigError(f"{folder} needs {need} and has {room} free; valid: --dir elsewhere")


def fetch_file(model: str, commit: str, file: RemoteFile, place: Path) -> None:
    """Fetches one file, unless it is there in its whole size. Half of it stays beside its place for the next call."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    target = place / file.name
    if target.exists() and target.stat().st_size == file.size:
        return
    print(f"fetching {file.name}, {file.size / 1e6:.1f} MB", file=sys.stderr, flush=True)
    url = hf_hub_url(model, file.name, revision=commit)
    location = get_hf_file_metadata(url, token=token()).location
    at_hub = urlsplit(location).netloc == urlsplit(url).netloc
    part = target.with_name(f".{target.name}.{(file.sha256 or file.blob or commit)[:12]}.part")
    download(location, get_token() if at_hub else None, part, file.size)
    part.replace(target)


def fetch(model: str, revision: str | None, folder: Path, patterns: Sequence[str], cut: str = "") -> None:
    """Fetches the matching files of a model into a folder and says so. `cut`: a folder of the model that it becomes.

    Raises ConfigError or WorkerError.
    """
    source = read_source(folder)
    if source and source.get("model") != model:
        raise ConfigError(f"{folder} holds files of {source['model']}; valid: remove it, or another --dir")
    asked = wanted_revision(model, revision, source)
    commit, files = remote_files(model, asked, patterns)
    print(f"{model} at {commit}: {len(files)} files, {sum(file.size for file in files) / 1e6:.1f} MB", file=sys.stderr)
    place = folder.parent if cut else folder
    place.mkdir(parents=True, exist_ok=True)
    check_room(place, files)
    with locked(place / ".fetch.lock", keep=False):
        for file in files:
            fetch_file(model, commit, file, place)
    pinned = pins().get(model, {})
    known = dict(pinned.get("sha256", {})) if pinned.get("revision") == commit else {}
    if source.get("revision") == commit:
        known = {f"{cut}/{name}" if cut else name: value for name, value in source["sha256"].items()} | known
    sums = check_files(place, files, known)
    named = {name.removeprefix(f"{cut}/"): value for name, value in sorted(sums.items())}
    write_json_atomic(folder / SOURCE, {"model": model, "revision": commit, "sha256": named})
    print(f"ready: {folder}")
    if pinned.get("revision") != commit:
        print(f"note: {commit} is no pin of the project; {folder / SOURCE} keeps it for the next call", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = argparse.ArgumentParser(prog="fetch", description=__doc__, allow_abbrev=False)
    made.add_argument("what", choices=("model", "adapter"))
    made.add_argument("--model", metavar="ID", default=MODEL, help=f"hub id (default: {MODEL})")
    made.add_argument("--revision", metavar="REV", help="commit, branch or tag (default: the project's pin, else main)")
    made.add_argument("--dir", metavar="DIR", type=Path, help="target folder (default: in miscs/ of the project)")
    made.add_argument("--subfolder", metavar="NAME", default=ADAPTER_FOLDER, help="the adapter's folder in the model")
    made.add_argument("--with-code", action="store_true", help="fetch the model's Python files too")
    return made


def run(argv: Sequence[str]) -> int:
    """Everything after the start. Returns the exit status. Raises ConfigError or WorkerError."""
    args = parser().parse_args(list(argv))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", args.model):
        raise ConfigError(f"--model: got {args.model!r}; valid: a hub id, owner/name")
    adapter = args.what == "adapter"
    folder = args.dir or PROJECT_DIR / "miscs" / (ADAPTER_FOLDER if adapter else args.model.split("/")[1])
    patterns = (f"{args.subfolder}/*",) if adapter else (*MODEL_FILES, *(("*.py",) if args.with_code else ()))
    if adapter and folder.name != args.subfolder:
        raise ConfigError(f"--dir: got {folder}; valid: a folder that is called {args.subfolder}, as in the model")
    return _fetched(args.model, args.revision, folder.absolute(), patterns, args.subfolder if adapter else "")


def _fetched(model: str, revision: str | None, folder: Path, patterns: Sequence[str], cut: str) -> int:
    """Fetches, with the hub client's errors in words. Returns the exit status."""
    from huggingface_hub import errors

    transport: type[Exception] = errors.HfHubHTTPError.__mro__[1]  # of the HTTP library that the client uses
    try:
        fetch(model, revision, folder, patterns, cut)
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{model} is gated; valid: accept its terms on its page, and set HF_TOKEN or HF_TOKEN_FILE"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"--revision: {model} has no {revision or wanted_revision(model, None, {})}") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"--model: the hub has no {model}, or the token (HF_TOKEN, HF_TOKEN_FILE) may not read it"
        ) from error
    except errors.HfHubHTTPError as error:
        raise WorkerError(f"the hub refused {model}: {_status(error)}; the same command goes on") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, transport) as error:
        raise WorkerError(f"the hub cannot be reached for {model}: {error}; the same command goes on") from error
    return 0


def _status(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else str(error)[:300]


if __name__ == "__main__":
    run_command(lambda: guarded(lambda: run(sys.argv[1:])))
