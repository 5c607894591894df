"""Loads an engine from WorkerSettings, submits requests by their fields and builds their Generation.

Used by the worker and by the command line `generate`.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from trimode.core.continuation import Continuation
from trimode.core.devices import own_threads
from trimode.core.errors import ConfigError, GenerationError, WorkerError
from trimode.core.protocol import DecodeParams, Generation, WorkerSettings
from trimode.core.worker import WorkerInfo
from trimode.workers.boundary import one_request
from trimode.workers.decode.context import StopFinder
from trimode.workers.engine.capture import graphs_for
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.engine.sizing import cache_pages
from trimode.workers.engine.step_threads import StepThreads
from trimode.workers.model.adapter import load_adapter, open_adapter
from trimode.workers.model.checkpoint import (
    DTYPES,
    ModelConfig,
    files_sha256,
    open_weights,
    read_config,
)
from trimode.workers.model.memory import return_free_memory
from trimode.workers.model.packed import check_weights
from trimode.workers.model.quantized import load_options
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.params import check_end_think, check_vocabulary, parse_params, read_continuation, read_request_id
from trimode.workers.result import build_generation
from trimode.workers.text import PromptLimits, Text, always, is_large


def resolve_device(name: str) -> torch.device:
    """Returns the torch device of `auto | cpu | cuda | cuda:N`. ConfigError if CUDA is asked for and not visible."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: got {name!r}; valid: auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: got {name!r}; valid: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name} was asked for, but no CUDA device is visible")
    return device


def checkpoint_folder(model: str, revision: str | None = None, *, with_code: bool = False) -> Path:
    """Returns the folder of a checkpoint, from the hub if `model` is no folder.

    Args:
        model: checkpoint folder, or a hub id.
        revision: commit, branch or tag of a hub id; None = main.
        with_code: True to also get the Python files of a hub id.

    Raises:
        ConfigError: `model` is no folder and the hub does not give it, or it is a folder and a revision is given.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"revision: got {revision} for the folder {path}; valid: none, or a hub id as the model")
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ConfigError(f"model: {model} is no folder; valid: a checkpoint folder or a hub id (owner/name)")
    from huggingface_hub import snapshot_download  # needed only for a hub id
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.jinja", "*.safetensors", "linear_spec_lora/*", *(["*.py"] if with_code else [])]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        named = f"{model} at revision {revision}" if revision else model
        reason = _hub_reason(model, error)
        raise ConfigError(f"model: {named} is no folder, and the hub did not give it: {reason}") from None


def _hub_reason(model: str, error: Exception) -> str:
    """Returns why the hub gave nothing and what to do, in one line: its own texts are long and name other things."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return f"it is not in the hub's cache, and HF_HUB_OFFLINE is set; valid: `hf download {model}` first"
        return "it is not in the hub's cache, and the hub cannot be reached; valid: a download where there is a network"
    if isinstance(error, errors.GatedRepoError):
        return "it is gated; valid: accept its licence on the hub, then `hf auth login` or HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is none of this name; valid: another name, or for a private one `hf auth login` or HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; valid: a commit, branch or tag of it"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"it answered with status {error.response.status_code}; try again later"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _default_name(model: str, folder: Path) -> str:
    """Returns the name to serve a checkpoint under: the hub id, or the folder's name.

    A snapshot in the hub's cache is a folder named by its commit, inside one that is named by the hub id.
    """
    if not Path(model).expanduser().is_dir():
        return model
    path = folder.resolve()
    kind, _, hub_id = path.parent.parent.name.partition("--")
    return hub_id.replace("--", "/", 1) if path.parent.name == "snapshots" and kind == "models" else path.name


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose fields are checked and whose prompt is tokenized: what the engine needs of it."""

    prompt_ids: list[int]
    params: DecodeParams
    find_stop: StopFinder | None
    continuation: Continuation | None = None
    """Where the request goes on; None = it begins."""


def read_request(
    fields: Mapping[str, object], text: Text, config: ModelConfig, limits: PromptLimits
) -> tuple[list[int], DecodeParams]:
    """Returns the prompt's ids and the parameters of one request.

    A request without max_new_tokens gets the default, cut to what is left of the context.

    Raises:
        GenerationError: a field is wrong (status 400). Names the field, what came and what is valid.
    """
    read_request_id(fields)
    params = parse_params(fields)
    check_vocabulary(params, config.vocab_size)
    check_end_think(params, config.mask_token_id)
    prompt_ids = text.prompt_ids(fields, limits)
    if fields.get("max_new_tokens") is None:
        room = limits.max_model_len - len(prompt_ids) - 2 * params.block_length
        params = dataclasses.replace(params, max_new_tokens=max(1, min(params.max_new_tokens, room)))
    # A thinking budget needs the token that ends thinking. If the request gives none, the tokenizer knows it.
    if params.max_thinking_tokens is not None and params.end_think_token_id is None and fields.get("enable_thinking"):
        end = text.end_think_token_id()
        if end is None:
            raise GenerationError("max_thinking_tokens: the vocabulary has no </think>; give end_think_token_id")
        params = dataclasses.replace(params, end_think_token_id=end)
    return prompt_ids, params


class Runtime:
    """A loaded checkpoint with its engine and its tokenizer."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Checks everything on disk, then loads the model.

        Raises:
            ConfigError: a bad checkpoint, adapter, tokenizer or setting.
            WorkerError: the device has no room for it.
        """
        if settings.dtype not in DTYPES:
            raise ConfigError(f"dtype: got {settings.dtype!r}; valid: {', '.join(DTYPES)}")
        if settings.max_num_seqs < 1:
            raise ConfigError(f"max_num_seqs: got {settings.max_num_seqs}; valid: >= 1")
        self.settings = settings
        folder = checkpoint_folder(settings.model, settings.revision)
        config = read_config(folder, settings.max_position_embeddings)
        device, dtype = resolve_device(settings.device), DTYPES[settings.dtype]
        most_threads = 1
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        elif device.type == "cpu":
            most_threads = torch.get_num_threads()
            torch.set_num_threads(own_threads(str(folder), most_threads))
        options = load_options(settings, config, device)
        files = open_weights(folder)
        check_weights(files, config, f"checkpoint: {folder}")
        adapter = open_adapter(Path(settings.lora), config) if settings.lora else None
        self.text = Text(Path(settings.tokenizer) if settings.tokenizer else folder)
        try:
            model = TriModeModel(config, files, dtype, device, options)
            if adapter is not None:
                like, invariant = model.embedding, model.batch_invariant
                model.adapter = load_adapter(*adapter, config.num_layers, like, batch_invariant=invariant)
            new_capture = graphs_for(model)
            capture = None if new_capture is None else new_capture()
            num_pages = cache_pages(settings, model, new_capture)
            self.engine = Engine(model, num_pages, settings.max_num_seqs, capture=capture)
            if torch.get_num_threads() < most_threads:  # a small model
                self.engine.runner.threads = StepThreads(most_threads, model.num_multiplications)
            self.captured = self.engine.warm_up()
            self.engine.measure()
            return_free_memory()  # what loading needed for a while: an eighth of a model of 1 GB
        except torch.OutOfMemoryError as error:
            raise WorkerError(f"{device} has no room for {folder}: {error}") from None
        self._weight_paths = files.paths
        self._adapter_paths = adapter[0].paths if adapter else []
        self.name = settings.served_model_name or _default_name(settings.model, folder)

    def prepare(self, fields: Mapping[str, object], go_on: Callable[[], None] = always) -> Prepared:
        """Checks a request's fields and tokenizes its prompt. Any thread may call this.

        Args:
            fields: see workers.params.
            go_on: called between the steps of the work. Raises GenerationError if nobody waits for the result.

        Raises:
            GenerationError: the request cannot run (status 400), or something failed (500).
        """
        engine = self.engine
        limits = PromptLimits(
            vocab_size=engine.model.config.vocab_size, max_model_len=engine.max_model_len, go_on=go_on
        )
        try:
            with one_request("the prompt"):
                prompt_ids, params = read_request(fields, self.text, engine.model.config, limits)
                find_stop = self.text.stop_finder(params.stop)
        finally:
            if is_large(fields):
                return_free_memory()
        return Prepared(prompt_ids, params, find_stop, read_continuation(fields, prompt_ids, params, limits.vocab_size))

    def add(self, request_id: str, prepared: Prepared, arrived: float | None = None) -> Sequence:
        """Queues a prepared request. Only the engine's thread may call this. GenerationError if it cannot run."""
        with one_request("the decoder"):
            sequence = self.engine.add(
                request_id, prepared.prompt_ids, prepared.params, prepared.find_stop, prepared.continuation
            )
        if arrived is not None:
            sequence.arrived = arrived
        return sequence

    def submit(self, request_id: str, fields: Mapping[str, object]) -> Sequence:
        """Prepares a request and queues it. GenerationError (400) if it cannot run."""
        return self.add(request_id, self.prepare(fields))

    def generation(self, sequence: Sequence) -> Generation:
        """Returns the result of a request that ended without an error. GenerationError (500) if that fails."""
        with one_request("the reply"):
            return build_generation(sequence, self.text)

    def text_task(self, task: str, fields: Mapping[str, object]) -> dict[str, object]:
        """Returns what Worker.text returns. Any thread may call this. GenerationError (400) if it cannot be done."""
        engine = self.engine
        vocab_size = engine.model.config.vocab_size
        with one_request("the tokenizer"):
            if task == "vocabulary":
                return self.text.vocabulary(vocab_size)
            if task == "detokenize":
                return {"text": self.text.detokenize(fields.get("tokens"), vocab_size)}
            limits = PromptLimits(vocab_size=vocab_size, max_model_len=engine.max_model_len)
            return {"tokens": self.text.prompt_ids(fields, limits)}

    def describe_kernels(self) -> dict[str, str]:
        """Returns per operator what runs and why; with graphs also what capturing them took."""
        graphs = {} if self.captured is None else {"graphs": str(self.captured)}
        return self.engine.model.describe_kernels() | graphs

    def info(self) -> WorkerInfo:
        """Returns what a worker with this engine is. Reads all weights to hash them."""
        model = self.engine.model
        import transformers  # its version belongs into the manifest

        gpu = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else None
        return WorkerInfo(
            model=self.settings.model,
            served_model_name=self.name,
            device=str(model.device),
            device_name=gpu or platform.machine(),
            dtype=self.settings.dtype,
            quantization=model.scheme or "none",
            quantized=model.quantized,
            weight_bytes=model.num_weight_bytes,
            batch_invariant=model.batch_invariant,
            kernels=self.describe_kernels(),
            max_model_len=self.engine.max_model_len,
            max_num_seqs=self.engine.max_num_seqs,
            lora=model.adapter is not None,
            vocab_size=model.config.vocab_size,
            weights_sha256=files_sha256(self._weight_paths),
            lora_sha256=files_sha256(self._adapter_paths) if self._adapter_paths else None,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
