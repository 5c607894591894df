"""engine=hf: the released remote code through transformers, one request at a time, to compare the native engine with.

It runs Python files that come with the checkpoint, so it starts only if that is allowed explicitly and the revision is
pinned. The tests run a stand-in with the same methods and signatures; the released files themselves have not been run.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from transformers.cache_utils import DynamicCache
from trimode.core.errors import ConfigError, GenerationError, WorkerError
from trimode.core.field_rules import show
from trimode.core.protocol import (
    DECODE_DEFAULTS,
    FORWARD_KINDS,
    Cost,
    DecodeParams,
    Generation,
    Mode,
    Quantization,
    WorkerSettings,
)
from trimode.workers.boundary import one_request
from trimode.workers.decode.linear_spec import emitted_lengths
from trimode.workers.model.adapter import open_adapter
from trimode.workers.model.checkpoint import DTYPES, files_sha256, read_config, read_json
from trimode.workers.params import check_fits
from trimode.workers.runtime import checkpoint_folder, read_request, resolve_device
from trimode.workers.sampling.randomness import request_seed
from trimode.workers.text import PromptLimits, Text

METHODS = {Mode.ar: "ar_generate", Mode.dlm: "generate", Mode.linear_spec: "linear_spec_generate"}
"""What the released class calls its decoders."""
ABSENT_FIELDS = {
    name: DECODE_DEFAULTS[name]
    for name in (
        *("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
        *("stop", "stop_token_ids", "logprobs", "top_logprobs", "prompt_logprobs"),
    )
}
"""Fields that the released methods lack, with the values that have no effect."""
NO_TOKEN = -1
"""Passed as end token when a request ignores it: None would mean the config's own."""
REMOTE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip
"""Exceptions that the remote code may raise; they end the request or the start, never the process."""


def folder_revision(folder: Path) -> str:
    """Returns the hash that pins a local folder, made from its code, settings and weights.

    It is the sha256 over the lines `<sha256 of the file>  <name>`, the same as
    `LC_ALL=C ls *.json *.py *.safetensors | xargs sha256sum | sha256sum`.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".py", ".safetensors"))
    lines = "".join(f"{files_sha256([path])}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()


@contextlib.contextmanager
def lenient_crop() -> Iterator[list[int]]:
    """Lets `DynamicCache.crop(n)` take both meanings: n > 0 keeps the first n tokens, n < 0 drops the last -n.

    The released linear_spec_generate passes the length to keep. Old versions of transformers take both, new ones only a
    count to drop. A length is turned into a count here, so that the same code runs on either.

    Yields:
        A list that gets the length left by each crop.
    """
    original = DynamicCache.crop
    lengths: list[int] = []

    def crop(cache: DynamicCache, amount: int) -> None:
        held = int(cache.get_seq_length())
        dropped = max(held - amount, 0) if amount > 0 else -amount
        if dropped:  # in old versions crop(0) empties the cache
            original(cache, -dropped)
        lengths.append(held - dropped)

    DynamicCache.crop = crop
    try:
        yield lengths
    finally:
        DynamicCache.crop = original


class HfReference:
    """The released model class with its weights on one device."""

    def __init__(self, settings: WorkerSettings, *, trust_remote_code: bool) -> None:
        """Checks that the code is allowed and pinned, then imports it and loads the weights.

        Args:
            settings: model, revision, lora, tokenizer, device and dtype are used; the other fields are ignored.
                The revision is the full commit of a hub id, or `folder_revision` of a folder.
            trust_remote_code: must be True.

        Raises:
            ConfigError: code not allowed, revision not pinned, or a checkpoint that cannot be run this way.
            WorkerError: the device has no room for it.
        """
        if not trust_remote_code:
            raise ConfigError(
                "trust_remote_code: got false; valid with engine hf: true, as it runs the checkpoint's Python files"
            )
        if settings.dtype not in DTYPES:
            raise ConfigError(f"dtype: got {settings.dtype!r}; valid: {', '.join(DTYPES)}")
        folder, self.revision = _pinned(settings.model, settings.revision)
        _check_code_is_its_own(folder)
        self.config = read_config(folder)
        if self.config.stored is not None or settings.quantization != Quantization.none:
            got = settings.quantization if self.config.stored is None else self.config.stored.method
            raise ConfigError(
                f"quantization with engine hf: got {got}; valid: none, and a checkpoint that is not quantised"
            )
        self.text = Text(Path(settings.tokenizer) if settings.tokenizer else folder)
        if settings.lora:
            open_adapter(
                Path(settings.lora), self.config
            )  # an adapter that does not fit is refused before the weights are loaded
        self._device = resolve_device(settings.device)
        try:
            self._model = _load(folder, self.revision, DTYPES[settings.dtype]).to(self._device).eval()
            if settings.lora:
                self._model = _with_adapter(self._model, settings.lora)
        except torch.OutOfMemoryError as error:
            raise WorkerError(f"{self._device} has no room for {folder}: {error}") from None
        self._has_adapter = settings.lora is not None

    def generate(self, request_id: str, fields: Mapping[str, object]) -> Generation:
        """Answers one request by the released method of its mode, cut at max_new_tokens as the native engine does.

        `nfe` is what the method returned. `forwards` follows from it by the mode's rule, and `acceptance_lengths` from
        the crops of the cache. The methods report no trace. At temperature > 0 torch draws the random numbers, so texts
        differ from the native engine's.

        Raises:
            GenerationError: a field is wrong or the released methods lack it (400), or they failed (500).
        """
        limit = self.config.max_position_embeddings
        limits = PromptLimits(vocab_size=self.config.vocab_size, max_model_len=limit)
        with one_request("the prompt"):
            prompt_ids, params = read_request(fields, self.text, self.config, limits)
        self._check(len(prompt_ids), params, fields)
        arrived = time.perf_counter()
        with self._adapter_on(params), lenient_crop() as kept, torch.no_grad():
            torch.manual_seed(request_seed(params.seed, prompt_ids))
            try:
                ids, nfe = self._call(torch.tensor([prompt_ids], device=self._device), params)
                whole = [int(token) for token in ids[0].tolist()[len(prompt_ids) :]]
                nfe = int(nfe)
            except REMOTE_ERRORS as error:
                raise GenerationError(f"the released code failed: {type(error).__name__}: {error}", 500) from None
        lengths = [len(prompt_ids), *kept] if params.mode == Mode.linear_spec else []
        accepted = [after - before for before, after in itertools.pairwise(lengths)]
        tokens = whole[: params.max_new_tokens]
        ended = not params.ignore_eos and any(token in self.config.eos_token_ids for token in tokens)
        total_s = time.perf_counter() - arrived
        return Generation(
            request_id=request_id,
            token_ids=tokens,
            text=self.text.decode(tokens),
            finish_reason="stop" if ended else "length",
            cost=Cost(
                prompt_tokens=len(prompt_ids),
                completion_tokens=len(tokens),
                forwards=_forwards(params, len(whole), nfe, len(accepted)),
                nfe=nfe,
                acceptance_lengths=emitted_lengths(accepted, len(tokens) - 1),
                first_token_s=total_s,
                total_s=total_s,
            ),
            trace=None,
        )

    def _check(self, num_prompt: int, params: DecodeParams, fields: Mapping[str, object]) -> None:
        for name, neutral in ABSENT_FIELDS.items():
            if getattr(params, name) != neutral:
                raise GenerationError(
                    f"{name}: got {show(fields[name])}; valid with engine hf: none, the reference lacks it"
                )
        speculative = params.mode == Mode.linear_spec and params.temperature > 0
        if speculative and fields.get("acceptance") == "rejection":
            raise GenerationError("acceptance: got 'rejection'; valid with engine hf: 'equality', the reference's rule")
        if params.mode not in METHODS:
            raise GenerationError(f"mode: got {show(params.mode)}; valid with engine hf: {', '.join(METHODS)}")
        check_fits(num_prompt, params, self.config.max_position_embeddings, has_adapter=self._has_adapter)

    def _call(self, prompt: torch.Tensor, params: DecodeParams) -> Any:  # noqa: ANN401 -- remote code is untyped
        method = getattr(self._model, METHODS[Mode(params.mode)])
        arguments: dict[str, object] = {
            "max_new_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "eos_token_id": NO_TOKEN if params.ignore_eos else None,
            "max_thinking_tokens": params.max_thinking_tokens,
            "end_think_token_id": params.end_think_token_id,
        }
        if params.mode == Mode.ar:
            return method(prompt, **arguments)
        arguments |= {"block_length": params.block_length, "threshold": params.threshold}
        if params.mode == Mode.dlm:  # the released method takes whole blocks only
            arguments["max_new_tokens"] = -(-params.max_new_tokens // params.block_length) * params.block_length
        return method(prompt, **arguments)

    @contextlib.contextmanager
    def _adapter_on(self, params: DecodeParams) -> Iterator[None]:
        """Sets the adapter's scale to 0 unless this request drafts with it.

        The released code would apply an attached adapter in ar and dlm too, and in every draft.
        """
        scale = 1.0 if params.lora and params.mode == Mode.linear_spec else 0.0
        for module in self._model.modules() if self._has_adapter else ():
            if hasattr(module, "lora_A"):
                module.set_scale("default", scale)
        yield


def _pinned(model: str, revision: str | None) -> tuple[Path, str]:
    """Returns the folder and its revision. ConfigError unless the revision names one unchangeable content."""
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser()
        held = folder_revision(folder)
        if revision != held:
            raise ConfigError(
                f"revision: got {revision}; valid: {held}, the hash of what {folder} holds now. "
                "Read its Python files before you pass it: they will be run"
            )
        return folder, held
    if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(
            f"revision: got {revision}; valid: the full commit (40 hex digits) of {model}, since branches and tags move"
        )
    return checkpoint_folder(model, revision, with_code=True), revision


def _check_code_is_its_own(folder: Path) -> None:
    """Refuses an `auto_map` that names code of another repository, because the revision does not pin that code."""
    auto_map = read_json(folder / "config.json").get("auto_map")
    if not isinstance(auto_map, dict) or "AutoModel" not in auto_map:
        raise ConfigError(f"checkpoint: {folder / 'config.json'} names no AutoModel in auto_map; valid: remote code")
    if foreign := [str(name) for name in auto_map.values() if "--" in str(name)]:
        raise ConfigError(f"checkpoint: auto_map names code of another repository: {', '.join(foreign)}")


def _load(folder: Path, revision: str, dtype: torch.dtype) -> Any:  # noqa: ANN401 -- remote code is untyped
    try:
        model, report = AutoModel.from_pretrained(
            str(folder), trust_remote_code=True, revision=revision, dtype=dtype, output_loading_info=True
        )
    except REMOTE_ERRORS as error:
        raise ConfigError(f"checkpoint: {folder} cannot be loaded: {type(error).__name__}: {error}") from None
    if absent := sorted(report["missing_keys"]):
        raise ConfigError(f"checkpoint: {folder} has no weights for {', '.join(absent[:12])}")
    if lacking := [name for name in METHODS.values() if not callable(getattr(model, name, None))]:
        raise ConfigError(f"checkpoint: {type(model).__name__} has no {', '.join(lacking)}")
    return model


def _with_adapter(model: Any, folder: str) -> Any:  # noqa: ANN401 -- remote code is untyped
    from peft import PeftModel  # slow to import, and needed only with an adapter

    return PeftModel.from_pretrained(model, folder).base_model.model


def _forwards(params: DecodeParams, num_tokens: int, nfe: int, num_cycles: int) -> dict[str, int]:
    """Returns the model calls by kind, from the returned nfe and the mode's rule. The prompt is one forward."""
    counts = {"prefill": 1}
    if params.mode == Mode.ar:
        counts["decode"] = nfe - 1
    elif params.mode == Mode.dlm:
        counts["cache"] = -(-num_tokens // params.block_length)
        counts["denoise"] = nfe - counts["cache"]
    else:
        counts["verify"] = num_cycles
        counts["draft"] = nfe - 1 - num_cycles
    return dict.fromkeys(FORWARD_KINDS, 0) | counts
