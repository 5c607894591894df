"""Each of the 25 instructions, followed and not followed."""

from __future__ import annotations

import pytest
from trimode.pipeline.scoring.ifeval import CHECKS, follows, use_data_dir
from trimode.tests.goldens import DATA

NEEDS_PUNKT = {"length_constraints:number_sentences", "change_case:capital_word_frequency"}
PUNKT = DATA / "nltk_punkt"

CASES = [
    ("keywords:existence", {"keywords": ["a", "b"]}, "B and A", "only a"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "at least"}, "Haha", "ha"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "less than"}, "ha", "haha"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "a CAT."),
    ("keywords:letter_frequency", {"letter": "o", "let_frequency": 2, "let_relation": "at least"}, "Oslo", "on"),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": "at least"}, "no!!", "no!"),
    ("language:response_language", {"language": "de"}, "Der Hund und die Katze sind im Garten.", "The dog is here."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "Yes. Dr. No came.", "Yes."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "*** one *** two ***", "one *** *** two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "it's three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        'First.\n\n"Then, go."',
        "Then.\n\nFirst.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a\n] [b]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "bye\np. s. more", "bye ps"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "bye\nP. P.S more", "P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n** two"),
    ("detectable_format:constrained_response", {}, "Well, My answer is no.", "no"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* ****"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 x Section 2 y",
        "Section one Section two",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<A title>> text", "<< >> text"),
    ("combination:two_responses", {}, "one ****** two", "one ****** one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, " say it. It.", "It. Say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"so the END."', "The end. Not."),
    ("startend:quotation", {}, ' "all of it" ', '"'),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, "Ok", "NASA"),
    ("change_case:english_capital", {}, "THIS IS AN ENGLISH SENTENCE.", "This IS AN ENGLISH SENTENCE."),
    ("change_case:english_lowercase", {}, "this is an english sentence.", "This is an english sentence."),
    ("punctuation:no_comma", {}, "none here", "one, here"),
]


@pytest.mark.parametrize(("instruction", "arguments", "followed", "broken"), CASES, ids=[case[0] for case in CASES])
def test_instruction(instruction: str, arguments: dict[str, object], followed: str, broken: str) -> None:
    if instruction in NEEDS_PUNKT:
        if not PUNKT.is_dir():
            pytest.skip("NLTK's punkt data are not here; TRIMODE_GOLDENS names the folder beside them")
        use_data_dir(DATA)
    assert follows(instruction, arguments, followed)
    assert not follows(instruction, arguments, broken)


def test_every_published_instruction_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize("instruction", sorted(CHECKS))
def test_an_empty_response_follows_nothing(instruction: str) -> None:
    assert not follows(instruction, {}, " \n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keyword": "a", "frequency": 1, "relation": "about"}, "unknown relation in an instruction: got 'about'"),
        ({"keyword": "a", "relation": "at least"}, "argument 'frequency' of an instruction must be a whole number"),
        ({"frequency": 1, "relation": "at least"}, "argument 'keyword' of an instruction must be text; got None"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        follows("keywords:frequency", arguments, "a")


def test_an_unknown_instruction_is_named() -> None:
    with pytest.raises(ValueError, match="unknown instruction: got 'keywords:none'; valid: change_case"):
        follows("keywords:none", {}, "a")
