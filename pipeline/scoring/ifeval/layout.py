"""Instructions on form: lists, sections, titles, highlights, JSON, placeholders, beginnings, endings and commas.

Every check is True if the response complies.
"""

from __future__ import annotations

import json
import re

from trimode.pipeline.scoring.ifeval.arguments import Arguments, Check, count_argument, text_argument

CONSTRAINED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
JSON_FENCES = ("```json", "```Json", "```JSON", "```")


def number_bullet_lists(response: str, arguments: Arguments) -> bool:
    """Exactly `num_bullets` lines that begin with one `*` or with `-`."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == count_argument(arguments, "num_bullets")


def constrained_response(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """One of the three fixed answers occurs."""
    return any(answer in response for answer in CONSTRAINED_ANSWERS)


def number_highlighted_sections(response: str, arguments: Arguments) -> bool:
    """At least `num_highlights` non-empty `*highlights*`; a `**double**` one is counted by its own pattern."""
    single = [found.strip("*") for found in re.findall(r"\*[^\n\*]*\*", response)]
    double = [found[2:-2] for found in re.findall(r"\*\*[^\n\*]*\*\*", response)]
    return sum(bool(found.strip()) for found in single + double) >= count_argument(arguments, "num_highlights")


def multiple_sections(response: str, arguments: Arguments) -> bool:
    """At least `num_sections` numbered section marks; the mark is a regular expression."""
    mark = text_argument(arguments, "section_spliter").strip()
    found = len(re.split(rf"\s?{mark}\s?\d+\s?", response)) - 1
    return found >= count_argument(arguments, "num_sections")


def json_format(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """The whole response, without a fence, is JSON."""
    text = response.strip()
    for fence in JSON_FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """A non-empty `<<title>>` on one line."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", response))


def number_placeholders(response: str, arguments: Arguments) -> bool:
    """At least `num_placeholders` `[placeholders]`, each on one line."""
    return len(re.findall(r"\[.*?\]", response)) >= count_argument(arguments, "num_placeholders")


def postscript(response: str, arguments: Arguments) -> bool:
    """The postscript mark occurs, in any case; P.S. and P.P.S may have a space inside."""
    mark = text_argument(arguments, "postscript_marker").strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(mark, mark.lower()), response.lower()))


def repeat_prompt(response: str, arguments: Arguments) -> bool:
    """The response begins with the prompt, in any case."""
    return response.strip().lower().startswith(text_argument(arguments, "prompt_to_repeat").strip().lower())


def two_responses(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """Two different responses divided by `******`; only the outermost parts may be empty."""
    parts = [part.strip() for part in response.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def end_checker(response: str, arguments: Arguments) -> bool:
    """The response ends with `end_phrase`, in any case; quotes around the response do not matter."""
    return response.strip().strip('"').lower().endswith(text_argument(arguments, "end_phrase").strip().lower())


def quotation(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """The whole response stands in double quotes."""
    text = response.strip()
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


def no_comma(response: str, arguments: Arguments) -> bool:  # noqa: ARG001 - every check's signature
    """No comma occurs."""
    return "," not in response


CHECKS: dict[str, Check] = {
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "combination:repeat_prompt": repeat_prompt,
    "combination:two_responses": two_responses,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "punctuation:no_comma": no_comma,
}
