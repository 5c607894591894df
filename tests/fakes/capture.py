"""Stands for CUDA graphs on a CPU: runs the recorded function again and checks that a graph would do the same.

A captured graph repeats the kernels of the capture with the addresses and the numbers of the capture. So a run of the
function must not depend on anything that a replay does not see. Refused are

- reading or writing memory that neither the caller has named nor the run has allocated,
- reading a value back to the host, and making a tensor from values of the host,
- operations, shapes, numbers or memory other than those of the capture.

What a run has allocated is overwritten after it, as another graph of the same pool would do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from trimode.workers.engine.capture import Capture

T = torch.Tensor
_HOST_READS = frozenset({
    T.item, T.tolist, T.numpy, T.cpu, T.__bool__, T.__int__, T.__float__, T.__index__, T.__array__, T.nonzero,
    T.is_nonzero, T.equal, torch.equal, T.pin_memory, torch.tensor, torch.as_tensor, torch.from_numpy, torch.frombuffer,
})  # fmt: skip
_WAITS = frozenset({
    "_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique", "_unique2", "unique_consecutive",
    "equal", "is_nonzero", "lift_fresh", "bincount", "repeat_interleave",
})  # fmt: skip
"""Operators whose result or shape the host must wait for, and `lift_fresh`, which brings values of the host."""
_INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class NotCapturable(BaseException):
    """A run that a graph cannot repeat. No Exception, so that no boundary takes it for the fault of a request."""


def storage(tensor: torch.Tensor) -> int:
    """Returns what identifies the memory of a tensor as long as the tensor lives."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(value: object, seen: set[int] | None = None) -> Iterable[torch.Tensor]:
    """Yields all tensors that an object of this project holds."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, seen)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from tensors_in(item, seen)
    elif type(value).__module__.startswith("trimode."):
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from tensors_in(getattr(value, field.name), seen)
        else:
            yield from tensors_in(vars(value), seen)


def flat(value: object) -> Iterable[object]:
    """Yields the arguments or results of an operator, without lists and dicts around them."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat(item)
    else:
        yield value


class _Run:
    """One run of a recorded function: what it may use, and what it did."""

    def __init__(self, outside: Mapping[int, int], expected: Sequence[object] | None) -> None:
        self.outside = outside
        self.expected = expected
        """What the capture did; None in the capture."""
        self.done: list[object] = []
        self.kept: list[torch.Tensor] = []
        """All that was made, so that no memory is used twice and seen as the same."""
        self._made: dict[int, int] = {}

    def note(self, what: str, values: object) -> None:
        """Adds an operation with its arguments. Raises NotCapturable if a replay would do something else."""
        entry = (what, *(self._argument(what, value) for value in flat(values)))
        if self.expected is not None:
            number = len(self.done)
            before = self.expected[number] if number < len(self.expected) else "nothing more"
            if entry != before:
                raise NotCapturable(f"a replay does {entry}, where the capture did {before}")
        self.done.append(entry)

    def made(self, values: object) -> None:
        """Counts the tensors that an operation returned as memory of this run."""
        for value in flat(values):
            if (
                isinstance(value, torch.Tensor)
                and (key := storage(value)) not in self.outside
                and key not in self._made
            ):
                self._made[key] = len(self._made)
                self.kept.append(value)

    def _argument(self, what: str, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return repr(value)
        key = storage(value)
        if value.numel() == 0:
            place: object = "empty"
        elif key in self.outside:
            place = ("outside", self.outside[key])
        elif key in self._made:
            place = ("made", self._made[key])
        else:
            raise NotCapturable(f"{what} uses {value.dtype} {list(value.shape)}, which the graph does not know")
        return place, tuple(value.shape), value.stride(), value.storage_offset(), str(value.dtype)

    def poison(self) -> None:
        """Overwrites the memory that the run has allocated."""
        for tensor in self.kept:
            if storage(tensor) in self._made and tensor.numel():
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                whole.fill_(0xFF)  # NaN in every float, -1 in integers


def _may_be_view(operator: Any) -> bool:
    """True if the operator may only give another view of its input, which runs nothing on a device."""
    return any(value.alias_info is not None and not value.alias_info.is_write for value in operator._schema.returns)


class _Operators(TorchDispatchMode):
    """Watches every operator of torch."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        arguments = (args, kwargs or {})
        if name in _WAITS:
            raise NotCapturable(f"the host waits for the device in {name}")
        if name in _INDEXED and any(
            isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8) for value in flat(args[1])
        ):
            raise NotCapturable(f"the host waits for the device in {name} with a mask")
        result = None
        if _may_be_view(func):
            result = func(*args, **(kwargs or {}))
            before = {storage(value) for value in flat(arguments) if isinstance(value, torch.Tensor)}
            if all(storage(value) in before for value in flat(result) if isinstance(value, torch.Tensor)):
                return result  # nothing runs, and the memory is known or unknown as before
        self._run.note(name, arguments)
        if result is None:
            result = func(*args, **(kwargs or {}))
        self._run.made(result)
        return result


class _Functions(TorchFunctionMode):
    """Watches the ways to the host that are no operators, and the addresses that compiled kernels take."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if func in _HOST_READS:
            raise NotCapturable(f"the host waits for the device in {name}")
        if func is T.to and any(
            isinstance(value, str | torch.device) for value in (*args[1:], *(kwargs or {}).values())
        ):
            raise NotCapturable("a tensor is brought to another device")
        if func is T.data_ptr:
            self._run.note(name, args)
        return func(*args, **(kwargs or {}))


class CheckedCapture(Capture):
    """Repeats what it has recorded on the CPU and refuses what a CUDA graph could not repeat."""

    def __init__(self, *, lazy: bool = False) -> None:
        """Has recorded nothing.

        Args:
            lazy: True to record a function when it is to be repeated for the first time, in place of that repetition.
                It saves the time for functions that never are.
        """
        self.num_recorded = 0
        self.num_replayed = 0
        self.layers: list[int] = []
        """Those after which the recorded functions could have been cut."""
        self._lazy = lazy
        self.launched: set[str] = set()
        """Names of the kernels that `watched` has seen inside of a run."""
        self._running: _Run | None = None

    def record(self, body: Callable[[], None], outside: Sequence[object]) -> Callable[[], None]:
        """Runs the function once; the returned function runs it again."""
        known: dict[int, int] = {}
        for tensor in tensors_in(outside):
            known.setdefault(storage(tensor), len(known))
        done: list[Sequence[object]] = []

        def capture() -> None:
            self.num_recorded += 1
            done.append(self._run(body, known, None))

        def replay() -> None:
            self.num_replayed += 1
            if done:
                self._run(body, known, done[0])
            else:
                capture()

        if not self._lazy:
            capture()
        return replay

    def after_layer(self, number: int) -> None:
        """Notes where the recording may be cut. Here it stays whole."""
        self.layers.append(number)

    def watched(self, launch: Callable[..., None]) -> Callable[..., None]:
        """Returns `launch` of `kernels.cuda.runtime`, with the arguments of a kernel checked as an operator's are.

        What Triton's interpreter does with them in place of a GPU is not looked at.
        """

        def launch_watched(kernel: Any, grid: tuple[int, ...], *args: object, **options: object) -> None:
            if self._running is None:
                launch(kernel, grid, *args, **options)
                return
            self.launched.add(kernel.__name__)
            self._running.note(f"launch {kernel.__name__}", (grid, args, options))
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                launch(kernel, grid, *args, **options)

        return launch_watched

    def _run(
        self, body: Callable[[], None], outside: Mapping[int, int], expected: Sequence[object] | None
    ) -> Sequence[object]:
        run = self._running = _Run(outside, expected)
        try:
            with _Functions(run), _Operators(run):
                body()
        finally:
            self._running = None
        if expected is not None and len(run.done) != len(expected):
            raise NotCapturable(f"a replay does {len(run.done)} operations, the capture did {len(expected)}")
        run.poison()
        return run.done
