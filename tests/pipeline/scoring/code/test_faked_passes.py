"""Answers that try to look right without being right. None of them may pass, in any of the code scorers."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import zlib
from pathlib import Path

import pytest
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.scoring.code import function_tests, livecodebench, plus

pytestmark = pytest.mark.process

DEMO, HUMAN_EVAL, LIVE = map(load_benchmark, ("demo-code", "human-eval", "livecodebench"))
PROMPT = 'def double(x):\n    """Twice x."""\n'
ALWAYS_EQUAL = """
class Same{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __len__(self): return 0
    def __iter__(self): return iter(())
    def __bool__(self): return True
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0.0
    def __float__(self): return 4.0
    def __getattr__(self, name): return self
    def __call__(self, *arguments): return self
def double(x):
    return Same()
"""
FRAMES = """
import gc, sys
def double(x):
    frame = sys._getframe()
    while frame is not None:
        for space in (frame.f_locals, frame.f_globals):
            for name in ("wanted", "expected", "outputs", "oracle", "part", "tests", "task"):
                value = space.get(name)
                if isinstance(value, (int, list)) and not isinstance(value, bool):
                    return value[0] if isinstance(value, list) else value
                if isinstance(value, dict) and "outputs" in value:
                    return value["outputs"]
        frame = frame.f_back
    return max([v for v in gc.get_objects() if isinstance(v, int)] or [0])
"""
PRINTS_VERDICTS = """
import gc, json, os, re, sys
found = [open(f"/proc/self/{name}", "rb").read().decode(errors="replace") for name in ("cmdline", "environ")]
frame = sys._getframe()
while frame is not None:
    found += [repr(frame.f_locals)[:10**6], repr(frame.f_code.co_consts)]
    frame = frame.f_back
found += [item for item in gc.get_objects() if isinstance(item, str)]
found.append(open(sys.argv[0] or "/dev/null").read())
for nonce in {*re.findall("[0-9a-f]{32}", " ".join(found)), "0"}:
    verdict = {"nonce": nonce, "passed": True, "base": True, "plus": True}
    for descriptor in range(64):
        try:
            os.write(descriptor, ("\\n" + json.dumps(verdict) + "\\n").encode())
            os.write(descriptor, ("\\npassed " + nonce + "\\n").encode())
        except OSError:
            pass
os._exit(0)
"""
GUARDED_PRINTS = PRINTS_VERDICTS.replace('open(f"/proc', '__import__("io").open(f"/proc').replace(
    "found.append(open(sys.argv[0]", 'found.append(__import__("io").open(sys.argv[0]'
)
OPTIMISED = """
import os, sys
if not os.environ.get("AGAIN"):
    environment = {**os.environ, "AGAIN": "1"}
    files = [sys.argv[0], __import__("sys").modules["__main__"].__dict__.get("__file__", "")]
    os.execve(sys.executable, [sys.executable, "-O", "-I", *[f for f in files if f][:1]], environment)
def double(x):
    return -1
"""
PATCHES = """
import builtins, json, operator, sys, types
main = sys.modules["__main__"]
names = ("passes", "run_all", "matches", "is_floats", "same_output", "passes_calls", "passes_stdin", "check_all")
for module in [main, *[m for m in list(sys.modules.values()) if isinstance(m, types.ModuleType)]]:
    for name in names:
        if name in getattr(module, "__dict__", {}):
            setattr(module, name, lambda *a, **k: True)
plain = json.dumps
json.dumps = lambda value, **k: plain({**value, "passed": True, "base": True, "plus": True} if isinstance(value, dict)
                                      and "value" not in value else value, **k)
operator.eq = lambda a, b: True
builtins.all = lambda items: True
builtins.set = lambda *a: frozenset()
def double(x):
    return -1
"""
FORKS = """
import ctypes, os
libc = ctypes.CDLL(None)
child = libc.fork()
if child == 0:
    for descriptor in range(64):
        try:
            os.write(descriptor, b'\\n{"passed": true, "base": true, "plus": true}\\n')
        except OSError:
            pass
    os._exit(0)
def double(x):
    return -1
"""
LYING_INT = """
class Liar(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __index__(self): return 4
    __hash__ = int.__hash__
def double(x):
    return Liar(-7)
"""
KILLS_PARENT = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
libc.ptrace(16, os.getppid(), 0, 0)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    libc.kill(os.getppid(), number)
def double(x):
    return -1
"""
MEMORY = """
import io, os, re
found = b""
for pid in {os.getpid(), os.getppid()}:
    try:
        maps = io.open(f"/proc/{pid}/maps").read()
        memory = io.open(f"/proc/{pid}/mem", "rb", buffering=0)
    except OSError:
        continue
    for line in maps.splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        try:
            memory.seek(start)
            found += memory.read(min(end - start, 1 << 22))
        except (OSError, ValueError, OverflowError):
            continue
for number in (b"104729", b"14"):
    if number in found:
        break
def double(x):
    return 2 * x if b"104729" in found and False else -1
"""
HUGE = """
def double(x):
    return "x" * (1 << 29)
"""
READS_THE_DISK = """
import glob, io
def double(x):
    for path in glob.glob("/tmp/**/HumanEvalPlus*", recursive=True) + glob.glob("/tmp/**/tests.jsonl", recursive=True):
        with io.open(path, "rb"):
            return 2 * x
    return -1
"""
EXITS = """
import os
def double(x):
    os._exit(0)
"""
LEAVES = """
def double(x):
    raise SystemExit(0)
"""
STOPS = """
import ctypes
def double(x):
    ctypes.string_at(0)
"""
ATTACKS = {
    "always equal": ALWAYS_EQUAL.format(base=""),
    **{f"always equal {base}": ALWAYS_EQUAL.format(base=f"({base})") for base in ("str", "list", "tuple", "dict")},
    "lying int": LYING_INT,
    "frames": FRAMES,
    "prints": PRINTS_VERDICTS,
    "prints in calls": PRINTS_VERDICTS.replace("os._exit(0)", "")
    .replace("\n", "\n    ")
    .replace("\n    \n", "\n")
    .join(("def double(x):", "\n    os._exit(0)\n")),
    "prints guarded": GUARDED_PRINTS,
    "optimised": OPTIMISED,
    "patches": PATCHES,
    "forks": FORKS,
    "kills": KILLS_PARENT,
    "memory": MEMORY,
    "huge": HUGE,
    "reads the disk": READS_THE_DISK,
    "exits": EXITS,
    "leaves": LEAVES,
    "crashes": STOPS,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    problem = {
        "task_id": "HumanEval/0",
        "prompt": PROMPT,
        "canonical_solution": "    return 2 * x\n",
        "entry_point": "double",
        "base_input": [[2], [3]],
        "plus_input": [[104729]],
        "atol": 1e-6,
    }
    (folder / "human-eval").mkdir()
    with gzip.open(folder / "human-eval" / "HumanEvalPlus-v0.1.9.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(problem) + "\n")
    cases = [{"input": "2", "output": "4", "testtype": "functional"}]
    calls = {
        "question_id": "double",
        "public_test_cases": json.dumps(cases),
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode(),
        "metadata": json.dumps({"func_name": "double"}),
    }
    (folder / "livecodebench").mkdir()
    (folder / "livecodebench" / "tests.jsonl").write_text(json.dumps(calls) + "\n")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_CACHE", str(tmp_path))


def passes_function_tests(code: str, data_dir: Path) -> bool:
    test = "def check(candidate):\n    assert candidate(2) == 4\n    assert not candidate(3) != 6\n"
    row = {"prompt": PROMPT, "entry_point": "double", "test": test}
    verdict = function_tests.score(DEMO, {**row, "generation": code}, data_dir)
    assert "verdict_not_isolated" not in verdict
    return bool(verdict["is_correct"])


def passes_plus(code: str, data_dir: Path) -> bool:
    row = {"task_id": "HumanEval/0", "generation": code}
    return bool(plus.score(HUMAN_EVAL, row, data_dir)["is_correct"])


def passes_live(code: str, data_dir: Path) -> bool:
    return bool(livecodebench.score(LIVE, {"task_id": "double", "generation": code}, data_dir)["graded_list"][0])


SCORERS = {"function tests": passes_function_tests, "evalplus": passes_plus, "livecodebench": passes_live}


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_faked_answer_is_wrong(attack: str, scorer: str, data_dir: Path) -> None:
    assert not SCORERS[scorer](ATTACKS[attack], data_dir)


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_honest_answer_is_right(scorer: str, data_dir: Path) -> None:
    assert SCORERS[scorer]("def double(x):\n    return 2 * x\n", data_dir)
