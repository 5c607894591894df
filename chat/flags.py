"""The flags of the chat commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trimode.chat.settings import Settings, checked
from trimode.core.errors import ConfigError

MODEL = "nvidia/Nemotron-Labs-Diffusion-8B"
QUANTIZATIONS = ("none", "fp8", "w8a16", "w4a16")
DTYPES = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp32": "float32", "float32": "float32"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; all flags: --help")


def parser(prog: str, description: str, mode: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a command. `mode`: the one of a preset; None lets the user choose."""
    made = _Parser(prog=prog, description=description, allow_abbrev=False)
    model = made.add_argument_group("model")
    model.add_argument("--model", metavar="MODEL", help=f"checkpoint folder or hub id (default: {MODEL})")
    model.add_argument("--revision", metavar="REV", help="commit, branch or tag of a hub id (default: main)")
    model.add_argument("--lora-path", metavar="DIR", help="adapter (default: the model's, else miscs/)")
    model.add_argument("--lora-subfolder", metavar="NAME", default="linear_spec_lora", help="adapter inside the model")
    model.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    model.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="default: bfloat16")
    model.add_argument("--quantization", choices=QUANTIZATIONS, default="none", help="default: none")
    model.add_argument("--server", metavar="URL", help="ask this running server instead of loading a model")
    model.add_argument("--api-key-file", metavar="FILE", help="file with the server's key")
    decoding = made.add_argument_group("decoding")
    if mode is None:
        decoding.add_argument("--mode", metavar="MODE", help="ar, dlm, linear_spec, linear_spec_lora, auto and others")
    decoding.add_argument("--max-new-tokens", metavar="N", type=int, default=512, help="default: 512")
    decoding.add_argument("--block-length", metavar="N", type=int, help="tokens per block (default: 32; ar has none)")
    decoding.add_argument("--threshold", metavar="X", type=float, help="commit confidence (dlm 0.9, linear_spec 0)")
    decoding.add_argument("--temperature", metavar="X", type=float, default=0.0, help="0 is greedy (default)")
    decoding.add_argument("--top-p", metavar="X", type=float, help="nucleus of sampling")
    decoding.add_argument("--top-k", metavar="N", type=int, help="most likely tokens to sample from")
    decoding.add_argument("--seed", metavar="N", type=int, help="seed of sampling")
    decoding.add_argument("--thinking", action="store_true", help="let the model think before it answers")
    decoding.add_argument("--max-thinking-tokens", metavar="N", type=int, help="thinking budget")
    decoding.add_argument("--system", metavar="TEXT", default="", help="system prompt")
    return made


def settings_of(args: argparse.Namespace, mode: str | None) -> Settings:
    """Returns the settings of the flags. Raises ConfigError."""
    names = ("max_new_tokens", "block_length", "threshold", "temperature", "top_p", "top_k", "seed", "thinking")
    given = {name: getattr(args, name) for name in (*names, "max_thinking_tokens")}
    return checked(Settings(mode=mode, **given))


def check_place(args: argparse.Namespace) -> None:
    """Checks that flags of a model and of a server are not mixed. Raises ConfigError."""
    if args.server is None:
        if args.api_key_file is not None:
            raise ConfigError("--api-key-file: acts with --server only")
        return
    for name in ("revision", "lora_path"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: the running server of --server has its own model")


def loads(argv: Sequence[str], made: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the parsed flags. Raises ConfigError."""
    args = made.parse_args(list(argv))
    check_place(args)
    if args.api_key_file is not None:
        args.api_key_file = str(Path(args.api_key_file).absolute())
    return args
