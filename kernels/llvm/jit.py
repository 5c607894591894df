"""Machine code for the CPU at hand: LLVM IR built in Python, compiled in this process, run on torch's own threads.

Triton has no CPU target; llvmlite contains LLVM, so no compiler needs to be installed.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from trimode.kernels.llvm.emitter import Emitter, Value

try:
    from llvmlite import binding, ir
except ImportError:  # then no CPU kernel is offered, see `missing`
    binding = ir = None

DTYPES = (torch.bfloat16, torch.float32)
"""Dtypes that the kernels load and store. They compute in float32."""


@functools.cache
def missing() -> str:
    """Returns what this machine lacks for the CPU kernels; empty if they run here."""
    if binding is None:
        return "no llvmlite"
    if gomp_parallel() is None:
        return "torch has no OpenMP library with GOMP_parallel"
    features = binding.get_host_cpu_features()
    wide = features.get("avx512f") or (features.get("avx2") and features.get("fma"))
    return "" if wide else "a CPU without AVX-512 and without AVX2 and FMA"


@functools.cache
def num_lanes() -> int:
    """Returns how many float32 fit a vector of this CPU: 16 or 8; 0 where the CPU kernels cannot run."""
    if missing():
        return 0
    return 16 if binding.get_host_cpu_features().get("avx512f") else 8


@functools.cache
def has_bf16_dot() -> bool:
    """True if this CPU multiplies pairs of bfloat16 in vectors of 16 lanes (AVX512-BF16, `Emitter.dot_bf16`)."""
    return num_lanes() == 16 and bool(binding.get_host_cpu_features().get("avx512bf16"))


@functools.cache
def has_byte_tables() -> bool:
    """True if this CPU looks bytes up in tables of 128 entries in registers (AVX512-VBMI)."""
    return num_lanes() == 16 and bool(binding.get_host_cpu_features().get("avx512vbmi"))


def refusal(*tensors: torch.Tensor) -> str | None:
    """Returns None if the CPU kernels run on this machine and take these tensors, otherwise the reason."""
    dtype = tensors[0].dtype
    for tensor in tensors:
        if not tensor.is_cpu:
            return f"no kernel for {tensor.device.type}"
        if tensor.dtype != dtype:
            return f"{dtype} and {tensor.dtype} together"
    if dtype not in DTYPES:
        return f"no CPU kernel for {dtype}"
    return None if num_lanes() else missing()


def describe(refused: str | None) -> str:
    """Returns the name of what runs: the CPU kernel, or the reference with the reason why the CPU kernel `refused`."""
    return f"cpu, {num_lanes()} lanes" if refused is None else f"reference: {refused}"


@functools.cache
def gomp_parallel() -> Any:  # noqa: ANN401 -- a ctypes function
    """Returns GOMP_parallel of the OpenMP library that torch has loaded, so that both share one pool of threads."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    lines = (line.split(maxsplit=5) for line in maps.read_text(encoding="utf-8", errors="replace").splitlines())
    found = {parts[5] for parts in lines if len(parts) == 6 and re.search(r"/lib(gomp|iomp5|omp)\b[^/]*$", parts[5])}
    for path in sorted(found, key=lambda path: ("torch" not in path, path)):  # another package may bring one too
        try:
            entry = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
        except OSError:  # replaced on disk since it was loaded
            continue
        if entry is not None:
            entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            entry.restype = None
            return entry
    return None


class Call(NamedTuple):
    """A call of a kernel with all its arguments, which may run any number of times."""

    kernel: Any
    """Has `address`, that of its code, and `alone`, which runs the code in this thread."""
    words: Any
    """A ctypes array of i64 that the code reads: two counters, which begin at 0, and what else the kernel needs."""
    threads: int

    def run(self) -> None:
        """Runs all work items and returns when the last is done. The addresses are not checked."""
        self.words[0] = self.words[1] = 0
        if self.threads <= 1:
            self.kernel.alone(self.words)
        else:
            gomp_parallel()(self.kernel.address, self.words, self.threads, 0)


_PORTIONS = 8
"""Small items are taken in portions of 1 / (threads * _PORTIONS) of all items."""
_HEAD = 4
"""Words of a call before its arguments: the next item, an unused one, items, items taken at once."""


class ParallelKernel:
    """A function over work items 0 .. n - 1. Threads take items one after the other, so a slow thread takes fewer."""

    ITEMS = 2
    """Place of the number of items in the words of a call."""
    ARGUMENTS = _HEAD
    """Place of the first argument."""

    def __init__(
        self, lanes: int, num_args: int, emit: Callable[..., Callable[[Value], None]], *, small: bool = False
    ) -> None:
        """Compiles the function.

        Args:
            lanes: float32 lanes of a vector.
            num_args: number of arguments of a call after the number of items. All are i64, addresses too.
            emit: `emit(emitter, *args)` writes the code before the items and returns a function that writes one item.
            small: True if an item is so short that taking it costs as much; then threads take many at a time.
        """
        self._small = small
        module = ir.Module("trimode")
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()]), "work")
        e = Emitter(function.append_basic_block("entry"), lanes)
        shared = function.args[0]
        places = range(2, num_args + _HEAD)
        limit, at_once, *args = (e.builder.load(e.at(shared, place, 8), typ=e.i64, align=8) for place in places)
        emit_item = emit(e, *args)
        head, body, end = (function.append_basic_block(name) for name in ("next", "item", "end"))
        e.builder.branch(head)
        e.builder.position_at_end(head)
        first = e.builder.atomic_rmw("add", shared, at_once, "monotonic")
        e.builder.cbranch(e.ult(first, limit), body, end)
        e.builder.position_at_end(body)
        e.loop(e.umin(e.builder.sub(limit, first), at_once), lambda number: emit_item(e.add(first, number)))
        e.builder.branch(head)
        e.builder.position_at_end(end)
        e.builder.ret_void()
        self._engine = compile_ir(str(module))
        self.address = self._engine.get_function_address("work")
        self.alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)
        self._words = ctypes.c_int64 * (num_args + _HEAD)

    def __call__(self, num_items: int, *args: int) -> None:
        """Runs all items and returns when the last is done. The addresses are not checked."""
        self.prepare(num_items, *args).run()

    def prepare(self, num_items: int, *args: int) -> Call:
        """Returns the same as a call that has not run yet."""
        threads = min(torch.get_num_threads(), num_items)
        at_once = max(1, num_items // (threads * _PORTIONS)) if self._small and threads else 1
        return Call(self, self._words(0, 0, num_items, at_once, *args), threads)


def compile_ir(source: str) -> Any:  # noqa: ANN401 -- an llvmlite engine
    """Returns the engine that holds the machine code of a module, given as text. Keep it as long as the code runs."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(source)
    module.verify()
    # LLVM avoids vectors of 512 bits by default, and the kernels gain most by them.
    features = binding.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=3, jit=True)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
