"""A device that runs on the CPU, counts what crosses to it and back, and refuses what would make the host wait for it.

Its tensors hold a tensor of the CPU and say that they are elsewhere, so that code takes the ways of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy")
"""A kind of device that torch knows and that has no kernels of its own."""
WAITS = (
    "_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "is_nonzero", "equal", "item", "unique",
    "_unique2", "bincount", "repeat_interleave",
)  # fmt: skip
"""Operators whose result the host needs before it can go on."""


class WaitsError(AssertionError):
    """An operator made the host wait for the device."""


class DeviceTensor(torch.Tensor):
    """A tensor of the fake device."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls: type[DeviceTensor], on_cpu: torch.Tensor) -> DeviceTensor:
        tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, on_cpu.shape, strides=on_cpu.stride(), storage_offset=on_cpu.storage_offset(), dtype=on_cpu.dtype,
            device=DEVICE,
        )  # fmt: skip
        assert isinstance(tensor, DeviceTensor)
        tensor.on_cpu = on_cpu
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise AssertionError(f"{func} on the fake device, but the device is off")


class FakeDevice(TorchDispatchMode):
    """While it is on, tensors may be put on `DEVICE`."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []
        """`to device` and `to host`, in the order in which they happened."""
        self.strict = False
        """True to refuse what makes the host wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False), **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(named) if isinstance(leaf, torch.Tensor)]
        on_device = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
        to_device = on_device
        if named.get("device") is not None:
            to_device = torch.device(named["device"]).type == DEVICE.type
            named["device"] = torch.device("cpu")
        name = func._schema.name.removeprefix("aten::")
        if name in ("_to_copy", "to", "copy_"):
            return self._copy(name, func, named, to_device=to_device)
        if on_device and self.strict:
            self._check(name, named, tensors)
        return self._run(func, named, wrap=to_device)

    def _copy(self, name: str, func: Any, named: dict[str, Any], *, to_device: bool) -> Any:
        source = named["self"]
        if name == "copy_":
            source, to_device = named["src"], isinstance(named["self"], DeviceTensor)
        if to_device == isinstance(source, DeviceTensor):
            return self._run(func, named, wrap=to_device)
        self.copies.append("to device" if to_device else "to host")
        if self.strict and to_device and not named.get("non_blocking"):
            raise WaitsError("a copy to the device waits for it: it is not non_blocking")
        if name == "to":
            named["copy"] = True  # on one and the same CPU nothing would be copied
        return self._run(func, named, wrap=to_device)

    def _check(self, name: str, named: Mapping[str, Any], tensors: Sequence[torch.Tensor]) -> None:
        if name in WAITS:
            raise WaitsError(f"{name} waits for the device")
        host = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
        if name in ("index_put_", "index_put", "index", "_index_put_impl_"):
            indices = [index for index in named["indices"] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                raise WaitsError(f"{name} by a mask waits for the number of its elements")
            if host:
                raise WaitsError(f"{name} with tensors of the host")
        if any(tensor.dim() for tensor in host):
            raise WaitsError(f"{name} mixes tensors of the host and of the device")

    def _run(self, func: Any, named: dict[str, Any], *, wrap: bool) -> Any:
        wrappers: dict[int, DeviceTensor] = {}

        def unwrap(leaf: Any) -> Any:
            if not isinstance(leaf, DeviceTensor):
                return leaf
            wrappers[id(leaf.on_cpu)] = leaf
            return leaf.on_cpu

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not wrap:
                return leaf
            same = wrappers.get(id(leaf))  # an operator that works in place
            return DeviceTensor(leaf) if same is None else same

        return tree_map(wrapped, func(**tree_map(unwrap, named)))


def waits(device: FakeDevice, call: Callable[[], object]) -> bool:
    """True if the call makes the host wait."""
    device.strict = True
    try:
        call()
    except WaitsError:
        return True
    finally:
        device.strict = False
    return False
