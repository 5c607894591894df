"""Makes the folder names of runs from paths and settings: the same for every spelling of a path, bounded, never hidden.

A name without need of change is the reference's: `models/m` becomes `models__m`, and `/models/m` `__models__m`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

from trimode.pipeline.spec import DecodeSpec

MAX_BYTES = 255
"""Longest name of a file or folder, in UTF-8."""
LABEL_BYTES, ADAPTER_BYTES = 100, 60
"""Most bytes that model and adapter keep in a name that would be too long."""
UNPRINTABLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
"""Unicode categories that no name has: control and format characters, line separators, halves of characters."""
SETTINGS = re.compile(r"_(ar|dlm|linear_spec|auto)_tok[0-9]+_blk[0-9]+_temp.*", re.DOTALL)


def model_label(path: str, folder: Path | None, cwd: Path) -> str:
    """Returns what stands for a model in names.

    That is `path`, a hub id, or for a `folder` its path: relative to `cwd` if it lies below, else absolute.
    """
    if folder is None:
        return label(path)
    below = folder.is_relative_to(cwd) and folder != cwd and cwd != Path("/")
    return label(str(folder.relative_to(cwd) if below else folder))


def label(text: str) -> str:
    """Returns `text` as a part of names: no slash, nothing unprintable and no dot at its beginning.

    Where characters were replaced, a hash of the text keeps its label apart from others.
    """
    plain = (text.rstrip("/") or text).replace("/", "__")
    printable = "".join("_" if unicodedata.category(char) in UNPRINTABLE else char for char in plain)
    if printable != plain:
        printable += f"-{_digest(text)}"
    return f"_{printable}" if printable.startswith(".") else printable


def derived_name(model: str, max_new_tokens: int, decode: DecodeSpec, threshold: float | None, marked: bool) -> str:
    """Returns the reference's folder name: model, mode, tokens, block, temperature, adapter, threshold.

    `model`: a label; `threshold`: as configured; `marked`: the adapter is called draft_only.
    """
    settings = f"_{decode.mode.value}_tok{max_new_tokens}_blk{decode.block_length}_temp{decode.temperature:g}"
    adapter = "" if decode.lora_path is None else label(Path(decode.lora_path).name)
    end = "" if threshold is None else f"_thr{threshold:g}"

    def name(model: str, adapter: str) -> str:
        lora = f"_lora_{adapter}{'_draft_only' if marked else ''}" if adapter else ""
        return f"{model}{settings}{lora}{end}"

    whole = name(model, adapter)
    if len(whole.encode()) > MAX_BYTES:
        whole = name(shortened(model, LABEL_BYTES), shortened(adapter, ADAPTER_BYTES))
    return shortened(whole, MAX_BYTES)


def shortened(text: str, num_bytes: int) -> str:
    """Returns `text`, or if it is longer than `num_bytes` its end, which tells most of a path, and a hash of it all."""
    if len(text.encode()) <= num_bytes:
        return text
    digest = _digest(text)
    end = text.encode()[-(num_bytes - len(digest) - 1) :].decode(errors="ignore").lstrip(".")
    return f"{end}-{digest}"


def settings_of(exp_name: str) -> str | None:
    """Returns what follows the model in a derived name; None for a name of another form, which the user gave."""
    found = SETTINGS.search(exp_name)
    return found[0] if found else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
