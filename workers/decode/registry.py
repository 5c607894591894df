"""The decoding modes by name. A new mode is one file in this folder and one line here."""

from __future__ import annotations

from trimode.workers.decode.ar import ArState
from trimode.workers.decode.auto import AutoState
from trimode.workers.decode.dlm import DlmState
from trimode.workers.decode.linear_spec import LinearSpecState
from trimode.workers.decode.state import DecodeState

MODES: dict[str, type[DecodeState]] = {
    "ar": ArState,
    "dlm": DlmState,
    "linear_spec": LinearSpecState,
    "auto": AutoState,
}
