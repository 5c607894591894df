"""Which modes there are: a name and its state machine, one line each.

Knows nothing of how a mode works; adding one means one file in this folder and one line here.
"""

from __future__ import annotations

from trimode.workers.decode.ar import ArState
from trimode.workers.decode.dlm import DlmState
from trimode.workers.decode.linear_spec import LinearSpecState
from trimode.workers.decode.state import DecodeState

MODES: dict[str, type[DecodeState]] = {
    "ar": ArState,
    "dlm": DlmState,
    "linear_spec": LinearSpecState,
}
