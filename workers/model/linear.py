"""Products with the model's weights: packed once where the CPU gains by it, plain everywhere else.

Knows nothing of layers, files or requests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from trimode.kernels.linear import pack, packs, product


class Linear:
    """A weight `[out, in]` and the fastest way of multiplying with it here; the plain weight is not kept beside it.

    On a CPU: our own product (`trimode.kernels.linear`), whose results do not depend on the other rows; in bfloat16
    oneDNN's on a CPU with AMX, whose rate nothing else reaches, or where our own does not run. Elsewhere: torch's.
    """

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.num_outputs = weight_OI.shape[0]
        self._weight = weight_OI
        self._product: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor] = _plain
        own = packs(weight_OI)
        if weight_OI.is_cpu and weight_OI.dtype == torch.bfloat16 and (_amx() if own else _onednn_has_bf16()):
            self._weight, self._product = torch.ops.mkldnn._reorder_linear_weight(weight_OI, 1), _onednn
        elif own:
            self._weight, self._product = pack(weight_OI), self._own

    @property
    def nbytes(self) -> int:
        """Bytes of the weight as it is kept."""
        return self._weight.numel() * self._weight.element_size()

    def __call__(self, x_TI: torch.Tensor, residual_TO: torch.Tensor | None = None) -> torch.Tensor:
        """`x @ weight.T (+ residual)`, `[T, out]`, any number of rows; our own and oneDNN's sum is rounded once."""
        return self._product(x_TI, self._weight, residual_TO)

    def _own(self, x_TI: torch.Tensor, weight: torch.Tensor, residual_TO: torch.Tensor | None) -> torch.Tensor:
        return product(x_TI, weight, self.num_outputs, residual_TO)


def _plain(x_TI: torch.Tensor, weight_OI: torch.Tensor, residual_TO: torch.Tensor | None) -> torch.Tensor:
    y_TO = F.linear(x_TI, weight_OI)
    return y_TO if residual_TO is None else residual_TO + y_TO


def _onednn(x_TI: torch.Tensor, weight: torch.Tensor, residual_TO: torch.Tensor | None) -> torch.Tensor:
    ops = torch.ops.mkldnn._linear_pointwise
    y_TO: torch.Tensor
    if residual_TO is None:
        y_TO = ops(x_TI, weight, None, "none", [], "")
    else:
        y_TO = ops.binary(x_TI, residual_TO, weight, None, "add")
    return y_TO


@functools.cache
def _onednn_has_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _amx() -> bool:
    return _onednn_has_bf16() and torch.cpu._is_amx_tile_supported()
