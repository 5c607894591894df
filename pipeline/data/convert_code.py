"""Raw rows of HumanEval+, MBPP+ and LiveCodeBench to NeMo-Skills' fields. In a question four blanks become a tab."""

from __future__ import annotations

from trimode.core.protocol import Row

LCB_RELEASE = "v6"
LCB_WINDOW = ("2024-08-01", "2025-05-31")
"""First and last contest day of the split test_v6_2408_2505."""

_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters."
)
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)


def _tabbed(text: str) -> str:
    return text.replace("    ", "\t")


def evalplus(raw: Row) -> Row:
    """Converts a HumanEval+ or MBPP+ task: drops its (large) test inputs and adds the question."""
    kept = {key: value for key, value in raw.items() if key not in ("base_input", "plus_input")}
    return {**kept, "question": _tabbed(str(raw["prompt"]))}


def in_window(raw: Row) -> bool:
    """True if a LiveCodeBench problem belongs to the split."""
    first, last = LCB_WINDOW
    return first <= str(raw["contest_date"])[:10] <= last


def livecodebench(raw: Row) -> Row:
    """Converts a problem of code_generation_lite: text, then the starter code or the stdin/stdout instructions."""
    starter = raw["starter_code"]
    advice, fenced = (_WITH_STARTER + "\n", starter) if starter else (_WITHOUT_STARTER + "\n\n", "# YOUR CODE HERE")
    return {
        "contest_date": raw["contest_date"],
        "difficulty": raw["difficulty"],
        "task_id": raw["question_id"],
        "question": _tabbed(f"{raw['question_content']}\n\n{advice}```python\n{fenced}\n```\n\n"),
        "subset_for_metrics": raw["difficulty"],
        "release_version": LCB_RELEASE,
    }
