"""Raw rows of MMLU, MMLU-Pro and GPQA to NeMo-Skills' multiple-choice fields.

The area of each MMLU subject is that of the `categories.py` beside the data set's own evaluation code.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from trimode.core.protocol import Row

_SUBJECTS_BY_AREA = {
    "biology": "college_biology high_school_biology",
    "business": "business_ethics management marketing",
    "chemistry": "college_chemistry high_school_chemistry",
    "computer science": "college_computer_science computer_security high_school_computer_science machine_learning",
    "culture": "human_sexuality sociology",
    "economics": "econometrics high_school_macroeconomics high_school_microeconomics",
    "engineering": "electrical_engineering",
    "geography": "high_school_geography",
    "health": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition "
    "professional_medicine virology",
    "history": "high_school_european_history high_school_us_history high_school_world_history prehistory",
    "law": "international_law jurisprudence professional_law",
    "math": "abstract_algebra college_mathematics elementary_mathematics high_school_mathematics "
    "high_school_statistics",
    "other": "global_facts miscellaneous professional_accounting",
    "philosophy": "formal_logic logical_fallacies moral_disputes moral_scenarios philosophy world_religions",
    "physics": "astronomy college_physics conceptual_physics high_school_physics",
    "politics": "high_school_government_and_politics public_relations security_studies us_foreign_policy",
    "psychology": "high_school_psychology professional_psychology",
}
MMLU_AREAS = {subject: area for area, subjects in _SUBJECTS_BY_AREA.items() for subject in subjects.split()}
"""The 57 subjects of MMLU and the area each counts for."""

_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA")
) | frozenset(("NULL", "NaN", "None", "n/a", "nan", "null"))
"""Cells that the hub's csv reader (pandas' defaults) takes for missing."""


def _choice_fields(question: str, choices: Sequence[object]) -> Row:
    """Returns the problem text with its lettered options, the options alone, and one field per letter."""
    letters = {chr(ord("A") + index): choice for index, choice in enumerate(choices)}
    options = "\n".join(f"{letter}) {choice}" for letter, choice in letters.items())
    stem = question.strip("\n")
    return {"problem": f"{stem}\n\n{options}", "options": options, **letters}


def mmlu(raw: Row) -> Row:
    """Converts subject, question, A to D and the answer's letter."""
    choices = [raw[letter] for letter in "ABCD"]
    row: Row = dict(zip("ABCD", choices, strict=True))
    row["expected_answer"] = raw["answer"]
    row["subtopic"] = raw["subject"]
    row.update(_choice_fields(str(raw["question"]), choices))
    row["subset_for_metrics"] = MMLU_AREAS[str(raw["subject"])]
    row["examples_type"] = f"mmlu_few_shot_{raw['subject']}"
    return row


def mmlu_pro(raw: Row) -> Row:
    """Converts question, options (up to ten), the answer's letter and category."""
    category = str(raw["category"]).replace(" ", "_")
    options = raw["options"]
    assert isinstance(options, list)
    return {
        "expected_answer": raw["answer"],
        "examples_type": f"mmlu_pro_few_shot_{category}",
        "subset_for_metrics": category,
        **_choice_fields(str(raw["question"]), options),
    }


def _cell(raw: Row, column: str) -> str | None:
    value = raw[column]
    return None if value is None or str(value) in _MISSING else str(value)


def _clean(text: str | None) -> str:
    """Strips a choice, turns ` [title]` into a full stop and double blanks into single ones (one pass)."""
    return " " if text is None else text.strip().replace(" [title]", ". ").replace("  ", " ")


def gpqa(raws: Sequence[Row]) -> list[Row]:
    """Converts all rows at once: one generator seeded with 42 shuffles the choices of each row, in file order."""
    shuffler = random.Random(42)  # noqa: S311 - fixes the order of the choices, guards nothing
    rows: list[Row] = []
    for raw in raws:
        correct = _clean(_cell(raw, "Correct Answer"))
        choices = [*(_clean(_cell(raw, f"Incorrect Answer {index}")) for index in (1, 2, 3)), correct]
        shuffler.shuffle(choices)
        difficulty = _cell(raw, "Writer's Difficulty Estimate")
        row: Row = {
            "expected_answer": chr(ord("A") + choices.index(correct)),
            "explanation": _clean(_cell(raw, "Explanation")),
            "subset_for_metrics": _cell(raw, "Subdomain"),
            "difficulty": None if difficulty is None else re.split(r"\s*\(", difficulty)[0],
        }
        rows.append({**row, **_choice_fields(str(raw["Question"]), choices)})
    return rows
