"""Writes LLVM IR: loops, addresses and the vector operations that the CPU kernels share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

try:
    from llvmlite import ir
except ImportError:  # then no CPU kernel is offered, see `trimode.kernels.llvm.jit.missing`
    ir = None

Value = Any
"""An `ir.Value`: llvmlite is untyped."""


@functools.cache
def _bfloat_vector(count: int) -> Any:  # noqa: ANN401 -- an `ir.Type`
    """Returns LLVM's vector of bfloat, an element type that llvmlite does not have."""
    element = type("BFloat", (ir.Type,), {"_to_string": lambda _: "bfloat"})
    return ir.VectorType(element(), count)


class Emitter:
    """Writes one function: an IRBuilder with loops, addresses and the vector operations that the kernels share.

    A Python int may be passed for an i64 value and stands for a constant.
    """

    def __init__(self, block: Any, lanes: int) -> None:  # noqa: ANN401 -- an `ir.Block`
        self.builder = ir.IRBuilder(block)
        self.lanes = lanes
        self.i64, self.i32, self.ptr = ir.IntType(64), ir.IntType(32), ir.PointerType()
        self.f32 = ir.FloatType()
        self.f32s, self.i32s = ir.VectorType(self.f32, lanes), ir.VectorType(self.i32, lanes)
        self.i16s = ir.VectorType(ir.IntType(16), lanes)

    def const(self, value: Value) -> Value:
        """Returns the value, or an i64 constant if it is a Python int."""
        return ir.Constant(self.i64, value) if isinstance(value, int) else value

    def add(self, first: Value, *others: Value) -> Value:
        """Sum of i64 values."""
        return functools.reduce(lambda a, b: self.builder.add(a, self.const(b)), others, self.const(first))

    def mul(self, first: Value, *others: Value) -> Value:
        """Product of i64 values."""
        return functools.reduce(lambda a, b: self.builder.mul(a, self.const(b)), others, self.const(first))

    def ceil_div(self, count: Value, size: Value) -> Value:
        """Ceiling division: number of blocks of `size` that cover `count`."""
        return self.builder.udiv(self.add(count, size, -1), self.const(size))

    def ult(self, a: Value, b: Value) -> Value:
        """True if a < b, as unsigned i64."""
        return self.builder.icmp_unsigned("<", self.const(a), self.const(b))

    def umin(self, a: Value, b: Value) -> Value:
        """The smaller of two unsigned i64."""
        return self.builder.select(self.ult(a, b), self.const(a), self.const(b))

    def splat_i32(self, value: int) -> Value:
        """An i32 constant in every lane."""
        return ir.Constant(self.i32s, [value] * self.lanes)

    def splat(self, scalar: Value) -> Value:
        """A scalar in every lane; a Python float stands for a float32 constant."""
        if isinstance(scalar, float):
            return ir.Constant(self.f32s, [scalar] * self.lanes)
        kind = ir.VectorType(scalar.type, self.lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(self.i32, 0))
        return self.builder.shuffle_vector(one, one, self.splat_i32(0))

    def at(self, array: Value, index: Value, size: int) -> Value:
        """Address of element `index` of an array with elements of `size` bytes. The array is a pointer or an i64."""
        base = self.builder.inttoptr(array, self.ptr) if array.type == self.i64 else array
        return self.builder.gep(base, [self.mul(index, size)], source_etype=ir.IntType(8))

    def scratch(self, count: int) -> Value:
        """Allocates `count` float32 on the stack. Call it outside loops; keep the total below a few hundred KB."""
        room = self.builder.alloca(self.f32, ir.Constant(self.i32, count))
        room.align, room.type = 64, self.ptr
        return room

    def load(self, pointer: Value, size: int = 4) -> Value:
        """Loads a vector of float32 (`size` 4) or bfloat16 (`size` 2), as float32."""
        if size == 4:
            return self.builder.load(pointer, typ=self.f32s, align=4)
        wide = self.builder.zext(self.builder.load(pointer, typ=self.i16s, align=2), self.i32s)
        return self.builder.bitcast(self.builder.shl(wide, self.splat_i32(16)), self.f32s)

    def load_one(self, pointer: Value) -> Value:
        """Loads one float32 into every lane."""
        return self.splat(self.builder.load(pointer, typ=self.f32, align=4))

    def load_i32(self, array: Value, index: Value) -> Value:
        """Loads element `index` of an array of non-negative i32, as i64."""
        return self.builder.zext(self.builder.load(self.at(array, index, 4), typ=self.i32, align=4), self.i64)

    def store(self, value: Value, pointer: Value, size: int = 4) -> None:
        """Stores a float32 vector (`size` 4), or rounds it to nearest even as bfloat16 (`size` 2); NaN stays NaN."""
        b = self.builder
        if size == 4:
            b.store(value, pointer, align=4)
            return
        bits = b.bitcast(value, self.i32s)
        odd = b.and_(b.lshr(bits, self.splat_i32(16)), self.splat_i32(1))
        rounded = b.lshr(b.add(bits, b.add(odd, self.splat_i32(0x7FFF))), self.splat_i32(16))
        kept = b.select(b.fcmp_unordered("uno", value, value), self.splat_i32(0x7FC0), rounded)
        b.store(b.trunc(kept, self.i16s), pointer, align=2)

    def first(self, count: Value) -> Value:
        """True in the first `count` lanes, in all lanes if `count` is larger."""
        return self.ult(ir.Constant(ir.VectorType(self.i64, self.lanes), list(range(self.lanes))), self.splat(count))

    def load_first(self, pointer: Value, count: Value) -> Value:
        """Loads the first `count` float32 into the first lanes and 0 into the others, whose memory is not read."""
        name = f"llvm.masked.load.v{self.lanes}f32.p0"
        return self.intrinsic(name, self.f32s, pointer, ir.Constant(self.i32, 4), self.first(count), self.splat(0.0))

    def store_first(self, value: Value, pointer: Value, count: Value) -> None:
        """Stores the first `count` lanes of a float32 vector, all lanes if `count` is larger."""
        name = f"llvm.masked.store.v{self.lanes}f32.p0"
        self.intrinsic(name, ir.VoidType(), value, pointer, ir.Constant(self.i32, 4), self.first(count))

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """`x * y + z`, rounded once."""
        return self.intrinsic(f"llvm.fma.v{self.lanes}f32", self.f32s, x, y, z)

    def dot_bf16(self, x: Value, y: Value, z: Value) -> Value:
        """`z + x1 * y1 + x0 * y0` per lane, rounded after each product; x and y are i32, two bfloat16 in a lane.

        One instruction of CPUs with AVX512-BF16, for 16 lanes. The halves x1 and y1 are the high ones. Subnormal
        inputs and results count as 0.
        """
        pairs = _bfloat_vector(2 * self.lanes)
        x, y = self.builder.bitcast(x, pairs), self.builder.bitcast(y, pairs)
        return self.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", self.f32s, z, x, y)

    def fmax(self, x: Value, y: Value) -> Value:
        """Maximum per lane."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, y), x, y)

    def swap(self, vector: Value, distance: int) -> Value:
        """Returns the vector with lanes exchanged: lane n gets the value of lane n xor `distance`."""
        places = ir.Constant(self.i32s, [n ^ distance for n in range(self.lanes)])
        return self.builder.shuffle_vector(vector, vector, places)

    def reduce(self, vector: Value, operation: Callable[[Value, Value], Value]) -> Value:
        """Combines all lanes by a tree of pairs. The result is in every lane."""
        distance = self.lanes // 2
        while distance:
            vector = operation(vector, self.swap(vector, distance))
            distance //= 2
        return vector

    def sqrt(self, x: Value) -> Value:
        """Square root per lane."""
        return self.intrinsic(f"llvm.sqrt.v{self.lanes}f32", self.f32s, x)

    def exp(self, x: Value) -> Value:
        """e^x per lane, within 2 units of the last place: 0 below -87, inf from 88 on, exactly 1 at 0, NaN for NaN.

        Computed as 2^n e^r with |r| <= ln 2 / 2 and the series of e^r up to its seventh power.
        """
        b = self.builder
        bounded = self.fmax(b.select(b.fcmp_ordered("<", x, self.splat(88.0)), x, self.splat(88.0)), self.splat(-87.0))
        n = self.intrinsic(f"llvm.rint.v{self.lanes}f32", self.f32s, b.fmul(bounded, self.splat(math.log2(math.e))))
        coarse = 0.693359375  # ln 2 to 9 bits: exact times any n
        r = self.fma(n, self.splat(-coarse), bounded)
        r = self.fma(n, self.splat(coarse - math.log(2)), r)
        total = self.splat(1 / math.factorial(7))
        for power in range(6, -1, -1):
            total = self.fma(total, r, self.splat(1 / math.factorial(power)))
        exponent = b.shl(b.add(b.fptosi(n, self.i32s), self.splat_i32(127)), self.splat_i32(23))
        result = b.fmul(total, b.bitcast(exponent, self.f32s))
        result = b.select(b.fcmp_ordered("<", x, self.splat(-87.0)), self.splat(0.0), result)
        result = b.select(b.fcmp_ordered(">=", x, self.splat(88.0)), self.splat(math.inf), result)
        return b.select(b.fcmp_unordered("uno", x, x), x, result)

    def iota(self) -> Value:
        """0 .. lanes - 1 as i32."""
        return ir.Constant(self.i32s, list(range(self.lanes)))

    def prefetch(self, pointer: Value) -> None:
        """Prefetches the cache line at the pointer."""
        self.intrinsic("llvm.prefetch.p0", ir.VoidType(), pointer, *(ir.Constant(self.i32, n) for n in (0, 3, 1)))

    def drop_subnormals(self) -> Value:
        """Lets subnormal inputs and results of float operations count as 0 on this thread, as `dot_bf16` always does.

        Returns what `restore_mode` takes. Call both in straight code of the function's first and last block.
        """
        saved, changed = (self.builder.alloca(self.i32) for _ in range(2))
        for place in (saved, changed):
            place.type = self.ptr
            self.intrinsic("llvm.x86.sse.stmxcsr", ir.VoidType(), place)
        bits = self.builder.or_(self.builder.load(changed, typ=self.i32, align=4), ir.Constant(self.i32, 0x8040))
        self.builder.store(bits, changed, align=4)
        self.intrinsic("llvm.x86.sse.ldmxcsr", ir.VoidType(), changed)
        return saved

    def restore_mode(self, saved: Value) -> None:
        """Restores how this thread treats subnormal numbers."""
        self.intrinsic("llvm.x86.sse.ldmxcsr", ir.VoidType(), saved)

    def intrinsic(self, name: str, result: Any, *args: Value) -> Value:  # noqa: ANN401 -- an `ir.Type`
        """Calls an LLVM intrinsic."""
        declared = self.builder.module.globals.get(name)
        if declared is None:
            declared = ir.Function(self.builder.module, ir.FunctionType(result, [arg.type for arg in args]), name)
        return self.builder.call(declared, args)

    def function(self, name: str, kinds: Sequence[Any]) -> tuple[Value, Emitter]:
        """Declares another function of the module, without a result. Returns it with an emitter for its body."""
        kind = ir.FunctionType(ir.VoidType(), kinds)
        function = ir.Function(self.builder.module, kind, name)
        function.linkage = "internal"
        return function, Emitter(function.append_basic_block(), self.lanes)

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """Returns the columns of a square of vectors, by exchanging blocks of decreasing size."""
        square, distance = list(rows), self.lanes // 2
        while distance:
            upper = [n if not n & distance else n - distance + self.lanes for n in range(self.lanes)]
            lower = [n + distance if not n & distance else n + self.lanes for n in range(self.lanes)]
            for i in range(self.lanes):
                if not i & distance:
                    first, second = square[i], square[i + distance]
                    square[i] = self.builder.shuffle_vector(first, second, ir.Constant(self.i32s, upper))
                    square[i + distance] = self.builder.shuffle_vector(first, second, ir.Constant(self.i32s, lower))
            distance //= 2
        return square

    def loop(
        self, count: Value, body: Callable[..., Sequence[Value] | None], carried: Sequence[Value] = ()
    ) -> list[Value]:
        """Runs `body(index, *carried)` for index 0 .. count - 1, at least once.

        The body returns the carried values of the next iteration. Returns those of the last one.
        """
        b = self.builder
        before, inside = b.block, b.append_basic_block("loop")
        b.branch(inside)
        b.position_at_end(inside)
        index = b.phi(self.i64)
        phis = [b.phi(value.type) for value in carried]
        results = list(body(index, *phis) or ())
        following = self.add(index, 1)
        for phi, first, result in zip((index, *phis), (self.const(0), *carried), (following, *results), strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(result, b.block)
        after = b.append_basic_block("after")
        b.cbranch(self.ult(following, count), inside, after)
        b.position_at_end(after)
        return results
