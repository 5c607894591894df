"""The demo-if task: short texts under instructions that a program can check.

Instruction ids and keyword arguments are those of IFEval, so its checks score the rows."""

import random
from dataclasses import dataclass, field
from typing import Any

from trimode.recipes.demo.tasks.example import Example
from trimode.recipes.demo.tasks.words import END_PHRASES, KEYWORDS, POSTSCRIPTS, TOPICS

COUNTS = ("zero", "one", "two", "three")


@dataclass
class Draft:
    """A text about a topic, in parts that instructions change before it is joined."""

    noun: str
    traits: list[str]
    place: str
    opinion: str
    commas: bool = True
    bullets: bool = False
    quoted: bool = False
    lowercase: bool = False
    title: bool = False
    extra: list[str] = field(default_factory=list)
    last: str = ""

    def text(self) -> str:
        """The finished response."""
        where = f"You can find it in the {self.place}. Many people think that the {self.noun} is {self.opinion}."
        if self.bullets:
            lines = [f"* The {self.noun} is {trait}." for trait in self.traits]
            body = "\n".join([*lines, where])
        else:
            joined = (
                f"{self.traits[0]}, {self.traits[1]} and {self.traits[2]}" if self.commas else " and ".join(self.traits)
            )
            body = f"The {self.noun} is {joined}. {where}"
        parts = [body, *self.extra]
        text = ("\n" if self.bullets else " ").join(parts) + self.last
        if self.title:
            text = f"<<The {self.noun}>>\n{text}"
        if self.lowercase:
            text = text.lower()
        return f'"{text}"' if self.quoted else text


Instruction = tuple[str, str, dict[str, Any]]
"""The text of the instruction, its id, its keyword arguments."""


def no_comma(_: random.Random, draft: Draft) -> Instruction:
    """No commas."""
    draft.commas = False
    return "Do not use any commas.", "punctuation:no_comma", {}


def existence(rng: random.Random, draft: Draft) -> Instruction:
    """Two keywords must occur."""
    first, second = rng.sample(KEYWORDS, 2)
    draft.extra.append(f"I like the {first} and the {second} too.")
    return f"Use the words {first} and {second}.", "keywords:existence", {"keywords": [first, second]}


def frequency(rng: random.Random, draft: Draft) -> Instruction:
    """One keyword must occur often enough."""
    word, count = rng.choice(KEYWORDS), rng.choice((2, 3))
    draft.extra.append("Here it is: " + " and ".join([word] * count) + ".")
    kwargs = {"relation": "at least", "keyword": word, "frequency": count}
    return f"Use the word {word} at least {COUNTS[count]} times.", "keywords:frequency", kwargs


def lowercase(_: random.Random, draft: Draft) -> Instruction:
    """Lowercase letters only."""
    draft.lowercase = True
    return "Use only lowercase letters.", "change_case:english_lowercase", {}


def ending(rng: random.Random, draft: Draft) -> Instruction:
    """A fixed last phrase."""
    phrase = rng.choice(END_PHRASES)
    draft.last = f" {phrase}"
    return f"End with: {phrase}", "startend:end_checker", {"end_phrase": phrase}


def quotation(_: random.Random, draft: Draft) -> Instruction:
    """Double quotes around everything."""
    draft.quoted = True
    return "Put all of it in double quotes.", "startend:quotation", {}


def bullets(rng: random.Random, draft: Draft) -> Instruction:
    """A fixed number of bullet points."""
    draft.bullets = True
    count = rng.choice((2, 3))
    draft.traits = draft.traits[:count]
    words = f"Use exactly {COUNTS[count]} bullet points."
    return words, "detectable_format:number_bullet_lists", {"num_bullets": count}


def title(_: random.Random, draft: Draft) -> Instruction:
    """A title in double angular brackets."""
    draft.title = True
    return "Add a title in << >>.", "detectable_format:title", {}


def postscript(rng: random.Random, draft: Draft) -> Instruction:
    """A postscript."""
    phrase = rng.choice(POSTSCRIPTS)
    draft.last = f"\nP.S. {phrase}"
    words = f"Add a postscript with P.S. saying: {phrase}"
    return words, "detectable_content:postscript", {"postscript_marker": "P.S."}


def highlights(rng: random.Random, draft: Draft) -> Instruction:
    """Some words between asterisks."""
    count = rng.choice((2, 3))
    draft.traits = [f"*{trait}*" if i < count else trait for i, trait in enumerate(draft.traits)]
    words = f"Highlight {COUNTS[count]} words with *asterisks*."
    return words, "detectable_format:number_highlighted_sections", {"num_highlights": count}


def placeholders(rng: random.Random, draft: Draft) -> Instruction:
    """Placeholders in square brackets."""
    count = rng.choice((1, 2))
    draft.extra.append("Ask [name]." if count == 1 else "Ask [name] or [friend].")
    words = f"Use {COUNTS[count]} placeholder{'s' if count > 1 else ''} like [name]."
    return words, "detectable_content:number_placeholders", {"num_placeholders": count}


INSTRUCTIONS = (
    no_comma,
    existence,
    frequency,
    lowercase,
    ending,
    quotation,
    bullets,
    title,
    postscript,
    highlights,
    placeholders,
)
CONFLICTS: frozenset[frozenset[str]] = frozenset(
    map(
        frozenset,
        (
            ("no_comma", "bullets"),
            ("quotation", "bullets"),
            ("ending", "postscript"),
            ("highlights", "bullets"),
            ("title", "lowercase"),
            ("lowercase", "postscript"),
            ("lowercase", "bullets"),
        ),
    )
)


def draw(rng: random.Random) -> Example:
    """One prompt of two to four instructions about a topic, and a text that follows them."""
    noun = rng.choice(list(TOPICS))
    first, second, third, place = TOPICS[noun]
    chosen = rng.sample(INSTRUCTIONS, rng.choice((2, 3, 4, 4)))
    names = {function.__name__ for function in chosen}
    if any(pair <= names for pair in CONFLICTS):
        return draw(rng)
    draft = Draft(noun, [first, second, third], place, second)
    made = [function(rng, draft) for function in chosen]
    prompt = f"Write about the {noun}. " + " ".join(words for words, _, _ in made)
    row = {
        "prompt": prompt,
        "question": prompt,
        "instruction_id_list": [identifier for _, identifier, _ in made],
        "kwargs": [kwargs for _, _, kwargs in made],
    }
    return Example(row, draft.text())
