"""Benchmark rows in NeMo-Skills' prepared form: found on disk, converted from raw files, or downloaded by `prepare`."""

from trimode.pipeline.data.load import data_root, load_rows

__all__ = ["data_root", "load_rows"]
