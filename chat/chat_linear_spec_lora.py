"""One user message from stdin, answered in mode linear_spec_lora: echo Hello | python chat/chat_linear_spec_lora.py"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# This checkout's own code, and no module of this folder that has the name of a package.
sys.path[:] = [str(ROOT / ".types"), *(entry for entry in sys.path if Path(entry or ".").resolve().parent != ROOT)]

from trimode.chat.start import one_question
from trimode.core.command import run_command

if __name__ == "__main__":
    run_command(lambda: one_question(sys.argv[1:], "linear_spec_lora", "chat_linear_spec_lora.py"))
