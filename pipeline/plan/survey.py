"""Resolves the paths of model, tokenizer and adapter, and fingerprints them, before planning."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.project import PROJECT_DIR
from trimode.pipeline.config.schema import Backend, Config
from trimode.pipeline.plan.hub_cache import hub_cache, repository, snapshot
from trimode.pipeline.plan.identity import folder_fingerprint
from trimode.pipeline.server.address import api_base
from trimode.pipeline.server.models import find_model
from trimode.pipeline.spec import Container, ServerSpec

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
MAX_LINKS = 40
"""Most links that are followed one after another, as in Linux."""
WEIGHT_FILES = (".safetensors", ".bin", ".pt")
"""Suffixes of files of weights."""
LORA_FOLDER = "linear_spec_lora"
"""Name of the adapter's folder where none is given."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder or hub id, and a fingerprint of its content."""

    path: str
    """Absolute folder, or hub id."""
    fingerprint: str
    is_folder: bool = True
    found: bool = True
    """False for what does not exist here (yet)."""
    link_targets: tuple[str, ...] = ()
    """Folders that links inside the folder lead to."""
    num_bytes: int | None = None
    """Size of the files of weights on disk; None if they are not there (yet)."""
    looked_in: tuple[str, ...] = ()
    """Where an adapter was looked for that was not found."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the plan needs to know of the disk."""

    cwd: Path
    """Folder of the caller: relative paths start here."""
    model: Weights
    tokenizer: Weights | None
    adapter: Weights | None
    """None if no mode uses one."""
    config_limit: int | None = None
    """Context limit in the model folder's config.json; None if it cannot be read here."""
    stored_quantization: str | None = None
    """Method of a quantised model folder, as its config.json names it; None if it has none or cannot be read here."""
    server: ServerSpec | None = None
    """The running server that answers; None if this project's balancer does."""


def survey(config: Config, cwd: Path) -> Survey:
    """Returns what a config's paths mean. A running server is asked for its model only if none is named.

    Raises ConfigError for a missing adapter or a revision of a folder.
    """
    if (server := server_spec(config, cwd)) is not None:
        name = config.model.path or find_model(server, "").name
        model = Weights(path=name, fingerprint=f"server:{name}", is_folder=False)
        return Survey(cwd, model, tokenizer=None, adapter=None, server=server)
    model = find_weights(config.model.path, cwd, config.model.revision)
    if not model.is_folder and (files := _cached(config, model.path)) is not None:
        model = replace(model, num_bytes=weight_bytes(files))
    tokenizer = find_weights(config.model.tokenizer, cwd, None) if config.model.tokenizer else None
    adapter = _find_adapter(config, cwd, model) if any(mode.lora for mode in config.modes.values()) else None
    raw = _model_config(model)
    limit, stored = raw.get("max_position_embeddings"), raw.get("quantization_config")
    method = str(stored.get("quant_method")) if isinstance(stored, dict) else None
    return Survey(cwd, model, tokenizer, adapter, limit if isinstance(limit, int) else None, method)


def server_spec(config: Config, cwd: Path) -> ServerSpec | None:
    """Returns the running server of a sweep; None if its jobs start this project's balancer. Raises ConfigError."""
    balancer = config.balancer
    if balancer.backend is Backend.trimode:
        return None
    if not balancer.url:
        raise ConfigError("balancer.url: got none; valid: the address of the server (--server)")
    return ServerSpec(
        url=api_base(balancer.url),
        engine=balancer.engine,
        api_key_file=str(absolute(balancer.api_key_file, cwd)) if balancer.api_key_file else None,
        fields=dict(balancer.fields),
    )


def _model_config(model: Weights) -> dict[str, object]:
    """Returns the model folder's config.json; nothing if it is wrong, which the loader of the checkpoint reports."""
    try:
        raw = json.loads((Path(model.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def absolute(path: str, cwd: Path) -> Path:
    """Returns `path` as seen from `cwd`, with `~` expanded and links kept."""
    return Path(os.path.normpath(cwd / Path(path).expanduser()))


def image_path(image: str, cwd: Path) -> str:
    """Returns a container image as Slurm needs it: a registry's URL as it is, a file by its absolute path."""
    return image if "://" in image or "#" in image else str(absolute(image, cwd))


def is_folder(path: Path) -> bool:
    """True if there is a folder at `path`. False also for a path that no folder can have, or that may not be read."""
    try:
        return path.is_dir()
    except OSError:
        return False


def find_weights(path: str, cwd: Path, revision: str | None) -> Weights:
    """Returns the folder at `path`, or the hub id if no such folder exists and `path` has the form of one.

    Raises ConfigError for a revision of a folder.
    """
    folder = absolute(path, cwd)
    if is_folder(folder):
        if revision is not None:
            raise ConfigError(
                f"model.revision: got {revision} for the folder {folder}; valid: none, or a hub id as the model"
            )
        return _folder(folder)
    if HUB_ID.fullmatch(path):
        return Weights(path=path, fingerprint=f"hub:{path}@{revision or 'main'}", is_folder=False)
    return Weights(path=str(folder), fingerprint=f"missing:{folder}", found=False)


def link_targets(folder: Path) -> tuple[str, ...]:
    """Returns the folders of the files that links in a folder of weights lead to, step by step.

    The hub's snapshots are such folders: their links lead into a folder beside.
    """
    found: dict[str, None] = {}
    for entry in sorted(folder.iterdir()) if is_folder(folder) else ():
        if not entry.is_symlink():
            continue
        step, steps = entry, 0
        while step.is_symlink() and steps < MAX_LINKS:
            step, steps = absolute(str(step.readlink()), step.parent), steps + 1
            found[str(step.parent)] = None
        with suppress(RuntimeError, OSError):  # links in a circle: whoever loads the weights reports them
            found[str(entry.resolve().parent)] = None
    return tuple(found)


def _folder(folder: Path) -> Weights:
    return Weights(
        path=str(folder),
        fingerprint=folder_fingerprint(folder),
        link_targets=link_targets(folder),
        num_bytes=weight_bytes(folder),
    )


def weight_bytes(folder: Path) -> int | None:
    """Returns the size of the files of weights in a folder; None if it has none that can be read."""
    with suppress(OSError):
        sizes = [path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHT_FILES]
        return sum(sizes) or None
    return None


def _find_adapter(config: Config, cwd: Path, model: Weights) -> Weights:
    """Returns the adapter that the config names, or else the one beside the model, or the project's own.

    Raises ConfigError if there is none.
    """
    if config.model.lora_path is not None:
        return _first_adapter([absolute(config.model.lora_path, cwd)])
    own = PROJECT_DIR / "miscs" / LORA_FOLDER
    if model.is_folder:
        return _first_adapter([Path(model.path) / LORA_FOLDER, own])
    return _hub_adapter(config, model, own)


def _hub_adapter(config: Config, model: Weights, own: Path) -> Weights:
    """Returns the adapter inside the repository of a hub id, or else the project's `own`.

    It is expected in the repository if that is not in the cache with its weights. Its fingerprint is made of the hub's
    names in any case, so that a download does not rename a run.
    """
    cache, files = _hub_cache(config), _cached(config, model.path)
    inside = Weights(f"{model.path}/{LORA_FOLDER}", f"{model.fingerprint}/{LORA_FOLDER}", is_folder=False)
    looked_in = (files or repository(cache, model.path)) / LORA_FOLDER
    if files is not None and is_folder(looked_in):
        return replace(inside, path=str(looked_in))
    if is_folder(own) or (files is not None and any(files.glob("*.safetensors"))):
        return _first_adapter([looked_in, own])
    return replace(inside, found=False, looked_in=(str(looked_in), str(own)))


def _hub_cache(config: Config) -> Path:
    cluster = config.cluster
    return hub_cache(os.environ, None if cluster.container is Container.none else cluster.hub_cache)


def _cached(config: Config, model: str) -> Path | None:
    return snapshot(_hub_cache(config), model, config.model.revision)


def _first_adapter(candidates: Sequence[Path]) -> Weights:
    for folder in candidates:
        if is_folder(folder):
            return _folder(folder)
    raise ConfigError(
        f"lora: no adapter folder at {' or '.join(map(str, candidates))}; valid: a folder with adapter_config.json, "
        "named by --lora-path (model.lora_path)"
    )
