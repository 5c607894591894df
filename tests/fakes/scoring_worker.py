"""A scoring process that misbehaves as its row's `do` says; speaks the real one's protocol."""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> None:
    """Serves rows; `hang`, `exit`, `kill`, `garbage` and `log` do what they say."""
    for line in sys.stdin:
        do = json.loads(line).get("do")
        if do == "hang":
            time.sleep(600)
        elif do == "exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(7)
        elif do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif do == "garbage":
            print("not json", flush=True)
            continue
        print(json.dumps({"predicted_answer": "A", "symbolic_correct": True, "pid": os.getpid()}), flush=True)


if __name__ == "__main__":
    main()
