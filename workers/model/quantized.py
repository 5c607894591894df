"""Loads the weights of a checkpoint, one matrix at a time: plain, quantised at load, or as packed in the checkpoint.

At any time at most one matrix of the checkpoint is held plain, beside what is loaded already: a model that fits the
device only when it is quantised can be loaded there. What comes on top are a few float32 copies of the 4 million
weights that are quantised at a time, and of matrices that are joined (q, k, v and gate, up) the codes a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from trimode.core.errors import ConfigError
from trimode.core.protocol import Quantization, WorkerSettings
from trimode.kernels import linear
from trimode.kernels.linear import Prepared
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme, join, quantize
from trimode.workers.model.checkpoint import ModelConfig, WeightFiles
from trimode.workers.model.packed import is_packed, read_packed
from trimode.workers.model.weight_storage import choose_storage

HEAD = "diffusion_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What is done to the weights while they are loaded."""

    scheme: Scheme | None = None
    """How the matrices of the layers are quantised; None leaves them as the checkpoint has them."""
    head: bool = False
    """True to quantise the head too."""
    packed12: bool = False
    """True to hold bfloat16 matrices that are not quantised in 12 bits a weight, where they fit."""
    storage: str = ""
    """The reason, for the user; empty = nothing was decided."""
    batch_invariant: bool = False
    """True for products whose rows do not depend on each other, where there is the choice."""


def load_options(settings: WorkerSettings, config: ModelConfig, device: torch.device) -> LoadOptions:
    """Returns what the settings ask for. ConfigError if the checkpoint or another setting excludes it."""
    valid = [kind.value for kind in Quantization]
    if settings.quantization not in valid:
        raise ConfigError(f"quantization: got {settings.quantization!r}; valid: {', '.join(valid)}")
    scheme = None if settings.quantization == Quantization.none else Scheme(settings.quantization)
    if scheme is not None and config.stored is not None:
        raise ConfigError(
            f"quantization of {settings.model}, which is quantised ({config.stored.method}): got {scheme}; "
            "valid: none, which runs it as it is"
        )
    if settings.quantize_head and scheme is None:
        raise ConfigError("quantize_head: got true with quantization none; valid: with fp8, w8a16 or w4a16")
    packed12, reason = choose_storage(settings, device)
    return LoadOptions(
        scheme=scheme,
        head=settings.quantize_head,
        packed12=packed12,
        storage=reason,
        batch_invariant=settings.batch_invariant,
    )


class WeightLoader:
    """Puts the weights of one checkpoint on a device."""

    def __init__(
        self, config: ModelConfig, files: WeightFiles, dtype: torch.dtype, device: torch.device, options: LoadOptions
    ) -> None:
        """`files` must have been checked against the config."""
        self._stored = config.stored
        self._files = files
        self._dtype = dtype
        self._device = device
        self._options = options
        self.quantized: list[str] = []
        """Matrices that were quantised here, in the order of loading."""

    def plain(self, *names: str) -> torch.Tensor:
        """Returns tensors in the dtype of the model, one after the other along their first dimension."""
        rows = [self._files.shapes[name][0] for name in names]
        shape = (sum(rows), *self._files.shapes[names[0]][1:])
        target = torch.empty(shape, dtype=self._dtype, device=self._device)
        for part, name in zip(target.split(rows), names, strict=True):
            part.copy_(self._files.tensor(name))
        return target

    def matrix(self, *names: str) -> Prepared:
        """Returns matrices that share their inputs as one, ready for products.

        Raises:
            ConfigError: some are quantised in the checkpoint and others are not or in another way, or a matrix cannot
                be quantised.
        """
        invariant = self._options.batch_invariant
        packed = [is_packed(self._files, self._stored, name) for name in names]
        if any(packed):
            if not all(packed):
                raise ConfigError(f"checkpoint: got {', '.join(names)} partly quantised; valid: all of them alike")
            parts = [self._read(name) for name in names]
            return linear.prepare_quantized(_joined(names, parts), batch_invariant=invariant)
        scheme = self._options.scheme
        if scheme is None or (names == (HEAD,) and not self._options.head):
            plain = self.plain(*(f"{name}.weight" for name in names))
            return linear.prepare(plain, batch_invariant=invariant, packed12=self._options.packed12)
        self.quantized += names
        parts = [self._quantize(name, scheme) for name in names]
        return linear.prepare_quantized(_joined(names, parts), batch_invariant=invariant)

    def _read(self, name: str) -> QuantizedWeight:
        assert self._stored is not None
        return read_packed(self._files, self._stored, name, self._dtype).to(self._device)

    def _quantize(self, name: str, scheme: Scheme) -> QuantizedWeight:
        """Quantises what the checkpoint stores, so that the dtype of the model makes no difference."""
        try:
            return quantize(self._files.tensor(f"{name}.weight").to(self._device), scheme, self._dtype)
        except ValueError as error:
            raise ConfigError(f"checkpoint: {name}: {error}") from None


def _joined(names: tuple[str, ...], parts: list[QuantizedWeight]) -> QuantizedWeight:
    if len(parts) == 1:
        return parts[0]
    try:
        return join(parts)
    except ValueError as error:
        raise ConfigError(f"checkpoint: {', '.join(names)}: {error}") from None


def without_numbers(names: list[str]) -> list[str]:
    """Returns the different names with `*` for the number of a layer, in their order."""
    return list(dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names))
