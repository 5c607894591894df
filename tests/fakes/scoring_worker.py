"""A scoring process that misbehaves as its row's `do` says; speaks the real one's protocol."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

VERDICT = {"predicted_answer": "A", "symbolic_correct": True}
LATE = {"predicted_answer": None, "symbolic_correct": False, "_judge_again": True}


def main() -> None:
    """Serves rows; `hang`, `exit`, `kill`, `garbage`, `late` and `wait` do what they say.

    With `once` they do it unless that file exists, and create it. `log` is a file that gets a line before and after.
    """
    for line in sys.stdin:
        row = json.loads(line)
        do = row.get("do")
        note(row, f"begin:{do}")
        verdict = act(do) if first_time(row) else {}
        note(row, f"end:{do}")
        if verdict is not None:
            print(json.dumps(VERDICT | {"pid": os.getpid()} | verdict), flush=True)


def first_time(row: dict[str, str]) -> bool:
    if "once" not in row:
        return True
    path = Path(row["once"])
    first = not path.exists()
    path.touch()
    return first


def note(row: dict[str, str], text: str) -> None:
    if "log" in row:
        with Path(row["log"]).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def act(do: str | None) -> dict[str, object] | None:
    """Misbehaves. Returns what it changes in the verdict, or None if it wrote something else."""
    if do == "hang":
        time.sleep(600)
    elif do == "exit":
        print("last words", file=sys.stderr, flush=True)
        os._exit(7)
    elif do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "garbage":
        print("not json", flush=True)
        return None
    elif do == "wait":
        time.sleep(0.1)
    elif do == "late":
        return LATE
    return {}


if __name__ == "__main__":
    main()
