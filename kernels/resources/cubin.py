"""Reads from a compiled kernel what it uses, with the tools that come with Triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trimode.kernels.cuda.offline import Compiled

SHARED_LIMIT = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 103: 232448, 120: 101376, 121: 101376}
"""Bytes of shared memory that one program may have (CUDA C++ Programming Guide, compute capabilities)."""
SHARED_PER_SM = {80: 167936, 86: 102400, 89: 102400, 90: 233472, 100: 233472, 103: 233472, 120: 102400, 121: 102400}
"""Bytes of shared memory of a multiprocessor."""
RESERVED_SHARED = 1024
"""Bytes of shared memory that the driver takes of each program."""
REGISTERS_PER_SM = 65536
THREADS_PER_SM = {80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048, 103: 2048, 120: 1536, 121: 1536}
MMA = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")
"""PTX instructions of the matrix units."""
NEWEST_MMA = {90: "wgmma.mma_async", 100: "tcgen05.mma", 103: "tcgen05.mma"}
"""The one with the highest rate, where it is not the first of MMA."""
ASYNC_COPIES = ("cp.async.cg", "cp.async.ca", "cp.async.bulk")
"""PTX instructions that copy to shared memory in the background: 16 bytes, 4 or 8 bytes, and blocks."""


class ToolError(Exception):
    """A tool of Triton is missing or does not read the kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The resources of one compiled kernel."""

    kernel: Compiled
    registers: int
    """Of a thread."""
    spilled_bytes: int
    """Stores and loads of a thread that the compiler had to put into local memory."""
    programs_per_sm: int
    """Programs that a multiprocessor holds at once, bound by registers, shared memory and threads."""
    mma: dict[str, int]
    """Matrix instructions in the PTX, by kind."""
    copies: dict[str, int]
    """Asynchronous copies in the PTX, by kind."""

    @property
    def occupancy(self) -> float:
        """Share of the multiprocessor's threads that run at once, 0 to 1."""
        return self.programs_per_sm * 32 * self.kernel.num_warps / THREADS_PER_SM[self.kernel.capability]

    def problems(self, *, needs_mma: bool, streams: bool = False) -> list[str]:
        """Returns what makes this kernel unfit for its chip, each in one sentence.

        Args:
            needs_mma: True if it multiplies matrices.
            streams: True if it must also use the newest matrix instructions and copies of 16 bytes.
        """
        found = []
        limit = SHARED_LIMIT[self.kernel.capability]
        if self.spilled_bytes:
            found.append(f"{self.spilled_bytes} bytes of registers spilled")
        if self.kernel.shared_bytes > limit:
            found.append(f"{self.kernel.shared_bytes} bytes of shared memory, the chip has {limit}")
        if needs_mma and not self.mma:
            found.append("a matrix product without matrix instructions")
        newest = NEWEST_MMA.get(self.kernel.capability, MMA[0])
        if streams and set(self.mma) != {newest}:
            found.append(f"{' '.join(self.mma) or 'no matrix instruction'} where {newest} is expected")
        if streams and "cp.async.cg" not in self.copies:
            found.append("no copies of 16 bytes")
        return found


def usage(kernel: Compiled) -> Usage:
    """Returns the resources of a compiled kernel.

    Raises:
        ToolError: Triton's ptxas is missing or refuses the kernel.
    """
    registers, spilled = _assembled(kernel)
    warps = kernel.num_warps
    per_warp = -(-32 * registers // 256) * 256  # registers are handed out in portions
    by_registers = REGISTERS_PER_SM // per_warp // warps
    by_shared = SHARED_PER_SM[kernel.capability] // (kernel.shared_bytes + RESERVED_SHARED)
    by_threads = THREADS_PER_SM[kernel.capability] // (32 * warps)
    return Usage(
        kernel=kernel,
        registers=registers,
        spilled_bytes=spilled,
        programs_per_sm=min(by_registers, by_shared, by_threads, 32),
        mma={name: count for name in MMA if (count := kernel.ptx.count(name))},
        copies={name: count for name in ASYNC_COPIES if (count := kernel.ptx.count(name))},
    )


def _assembled(kernel: Compiled) -> tuple[int, int]:
    """Returns registers per thread, and bytes spilled, as ptxas reports them."""
    import triton

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    ptxas = tools / "ptxas-blackwell"
    if kernel.capability < 100 or not ptxas.exists():
        ptxas = tools / "ptxas"
    chip = f"sm_{kernel.capability}{'a' if kernel.capability >= 90 else ''}"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(kernel.ptx, encoding="utf-8")
        command = [str(ptxas), "-v", f"--gpu-name={chip}", str(source), "-o", str(Path(folder) / "kernel.cubin")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ToolError(f"{ptxas} does not run: {error}") from None
    registers = re.search(r"Used (\d+) registers", done.stderr)
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    if done.returncode or registers is None:
        raise ToolError(f"{kernel.name}: ptxas {chip} said: {(done.stderr or done.stdout)[-500:]}")
    return int(registers.group(1)), sum(map(int, spilled))
