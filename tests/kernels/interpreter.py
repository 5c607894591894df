"""Lets Triton's interpreter compute with bfloat16, which upstream leaves unsupported: there it is a 16-bit integer.

Operands are widened to float32, and results are rounded to the nearest bfloat16, ties to even, as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

Handle = interpreter.TensorHandle


def is_bfloat16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def widened(handle: Any) -> Any:
    """The same values, bfloat16 as float32."""
    if not is_bfloat16(handle):
        return handle
    return Handle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def rounded(values: np.ndarray) -> Any:
    wide = np.ascontiguousarray(values, dtype=np.float32)
    bits = wide.view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return Handle(np.where(np.isnan(wide), 0x7FC0, nearest).astype(np.uint16), tl.bfloat16)


def support_bfloat16() -> None:
    """Replaces the interpreter's arithmetic where a bfloat16 takes part. Repeated calls do nothing."""
    builder = interpreter.InterpreterBuilder
    if hasattr(builder, "supports_bfloat16"):
        return
    builder.supports_bfloat16 = True
    dot, cast = builder.create_dot, builder.cast_impl

    def by_float32(plain: Callable[..., Any], operands: int) -> Callable[..., Any]:
        def operation(self: Any, *args: Any) -> Any:
            handles, rest = args[:operands], args[operands:]
            if not any(is_bfloat16(handle) for handle in handles):
                return plain(self, *args)
            result = plain(self, *map(widened, handles), *rest)
            return rounded(result.data) if result.data.dtype == np.float32 else result

        return operation

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), d, *rest)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if target.scalar != tl.bfloat16:
            return cast(self, widened(source), target)
        return source if is_bfloat16(source) else rounded(source.data.astype(np.float32))

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    builder.binary_op = by_float32(builder.binary_op, 2)
    builder.unary_op = by_float32(builder.unary_op, 1)
