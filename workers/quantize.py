"""`python -m trimode.workers.quantize`: writes a quantised copy of a checkpoint, which workers load as it is.

The copy has the public layout of compressed-tensors, so that other engines can read it too. It holds the same numbers
as quantising at load. Tokenizer, chat template, adapter and code are copied. The folder appears under its name when it
is complete.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from trimode.core.command import UNREAD, run_command
from trimode.core.errors import USER_ERROR, ConfigError, guarded
from trimode.kernels.linear.quantized import QuantizedWeight, Scheme, dequantize, quantize
from trimode.workers.model.checkpoint import ModelConfig, WeightFiles, expected_shapes, open_weights, read_config
from trimode.workers.model.packed import check_weights, matrices
from trimode.workers.model.packed_folder import (
    FORMATS,
    packed_bytes,
    packed_tensors,
    quantization_config,
    write_config,
    write_shards,
)
from trimode.workers.model.quantized import HEAD
from trimode.workers.runtime import checkpoint_folder, resolve_device

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.gguf")
"""Files of the source that are not copied."""
ADAPTER = "linear_spec_lora"
MIB, GIB = 2**20, 2**30


@dataclass(slots=True)
class Quantizer:
    """Makes the tensors of the copy, one matrix at a time, and notes what each one lost."""

    config: ModelConfig
    files: WeightFiles
    scheme: Scheme
    device: torch.device
    chosen: dict[str, tuple[int, int]]
    """Names and shapes `(O, I)` of the matrices to quantise."""
    errors: dict[str, float] = field(default_factory=dict)
    """Size of what a matrix lost, relative to its own (Frobenius norms)."""

    def sizes(self) -> dict[str, int]:
        """Returns the bytes of each tensor of the copy, a quantised matrix under its name without `.weight`."""
        sizes = {}
        for name, shape in expected_shapes(self.config).items():
            matrix = name.removesuffix(".weight")
            if matrix in self.chosen:
                sizes[matrix] = packed_bytes(self.chosen[matrix], self.scheme)
            else:
                sizes[name] = torch.Size(shape).numel() * self.files.tensor(name).element_size()
        return sizes

    def make(self, name: str) -> dict[str, torch.Tensor]:
        """Returns the tensors of one name of `sizes`. ConfigError if a matrix cannot be quantised."""
        if name not in self.chosen:
            return {name: self.files.tensor(name)}
        plain = self.files.tensor(f"{name}.weight").to(self.device)
        try:
            weight = quantize(plain, self.scheme, torch.bfloat16)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        self.errors[name] = _relative_error(plain, weight)
        return {f"{name}.{part}": tensor for part, tensor in packed_tensors(weight).items()}


def _relative_error(plain: torch.Tensor, weight: QuantizedWeight) -> float:
    exact = plain.float()
    size = float(exact.norm())
    return float((dequantize(weight) - exact).norm()) / size if size else 0.0


def write_quantized(
    source: Path, out: Path, scheme: Scheme, *, head: bool, device: torch.device, shard_bytes: int
) -> None:
    """Writes the copy and prints what it costs.

    Raises:
        ConfigError: the source is quantised already or cannot be quantised, or `out` holds something.
    """
    config = read_config(source)
    if config.stored is not None:
        raise ConfigError(f"--model {source}: got a checkpoint quantised by {config.stored.method}; valid: a plain one")
    files = open_weights(source)
    check_weights(files, config, f"checkpoint: {source}")
    every = matrices(config)
    chosen = {name: shape for name, shape in every.items() if head or name != HEAD}
    quantizer = Quantizer(config, files, scheme, device, chosen)
    try:
        sizes = quantizer.sizes()
    except ValueError as error:
        raise ConfigError(f"checkpoint: {source}: {error}") from None
    with _complete_folder(out) as folder:
        for name in write_shards(folder, sizes, quantizer.make, shard_bytes):
            if name.endswith("mlp.down_proj"):
                print(_layer_line(name, quantizer.errors), flush=True)
        _copy_others(source, folder)
        plain = [name for name in every if name not in chosen]
        write_config(source, folder, quantization_config(scheme, chosen, plain))
    before = sum(path.stat().st_size for path in files.paths)
    after = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    print(f"weights: {before / MIB:,.1f} MiB before, {after / MIB:,.1f} MiB after ({after / before:.1%})")
    print(f"{out}: {scheme.value}, {len(chosen)} matrices; plain: {', '.join(['encoder.embed_tokens', *plain])}, norms")


def _layer_line(name: str, errors: dict[str, float]) -> str:
    """Returns the errors of one layer, whose last matrix is `name`."""
    layer = name.removesuffix("mlp.down_proj")
    shown = (f"{matrix.rpartition('.')[2]} {error:.2%}" for matrix, error in errors.items() if matrix.startswith(layer))
    return f"{layer.removeprefix('encoder.').rstrip('.')}: relative error {', '.join(shown)}"


@contextmanager
def _complete_folder(out: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `out` that takes its name at the end, and is removed if the block raises.

    Raises:
        ConfigError: `out` is a file or holds something.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"--out {out}: got something that is there already; valid: a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        folder.chmod(0o755)
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _copy_others(source: Path, folder: Path) -> None:
    """Copies what is neither weights nor config.json: tokenizer, chat template, license, code, adapter."""
    for path in sorted(source.iterdir()):
        weights = any(path.match(pattern) for pattern in WEIGHT_FILES)
        if path.is_file() and not weights and path.name != "config.json" and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
    if (source / ADAPTER).is_dir():
        shutil.copytree(source / ADAPTER, folder / ADAPTER, copy_function=shutil.copyfile)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trimode.workers.quantize", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--revision", help="commit, branch or tag of a hub id (default: main)")
    parser.add_argument("--scheme", required=True, choices=[scheme.value for scheme in FORMATS])
    parser.add_argument("--out", required=True, type=Path, help="new or empty folder")
    parser.add_argument("--quantize-head", action="store_true", help="quantise the head too")
    parser.add_argument("--device", default="auto", help="where to compute: auto | cpu | cuda | cuda:N (default: auto)")
    parser.add_argument("--shard-gib", type=float, default=4.0, help="size of one file of weights (default: 4)")
    return parser.parse_args()


def main() -> int:
    """Runs the command line. Returns the exit status."""
    arguments = _arguments()
    return guarded(lambda: _run(arguments), failed=USER_ERROR)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.shard_gib > 0:
        raise ConfigError(f"--shard-gib: got {arguments.shard_gib}; valid: above 0")
    source = checkpoint_folder(arguments.model, arguments.revision, with_code=True)
    device = resolve_device(arguments.device)
    write_quantized(
        source,
        arguments.out,
        Scheme(arguments.scheme),
        head=arguments.quantize_head,
        device=device,
        shard_bytes=int(arguments.shard_gib * GIB),
    )
    return 0


if __name__ == "__main__":
    run_command(main, unfinished=UNREAD)
