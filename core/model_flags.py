"""The flags that say which model is loaded and how, of every command that loads one (`WorkerSettings.from_flags`)."""

from __future__ import annotations

import argparse

from trimode.core.protocol import Quantization, WeightStorage


def add_model_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the flags from --model to --batch-invariant."""
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--tokenizer", help="tokenizer folder; the checkpoint's own when absent")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="type of the numbers")
    parser.add_argument(
        "--quantization",
        default="none",
        choices=[scheme.value for scheme in Quantization],
        help="what is done to the weights of the layers at load",
    )
    parser.add_argument("--quantize-head", action="store_true", help="quantise the head too")
    parser.add_argument(
        "--weight-storage",
        default="auto",
        choices=[storage.value for storage in WeightStorage],
        help="how plain bfloat16 weights are held in memory; packed12: 12 bits each, without loss",
    )
    parser.add_argument(
        "--batch-invariant",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="results that do not depend on the other requests of a batch, where a slower kernel can promise it",
    )
