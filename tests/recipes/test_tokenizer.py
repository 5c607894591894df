"""The demo tokenizer: ids, bytes, words, and the chat template it ships."""

import json
import random

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer
from trimode.recipes.demo import dataset, tokenizer

MODEL_DIR = dataset.ROOT / "assets" / "demo_model"
EMPTY_SYSTEM = "<|im_start|>system\n<|im_end|>\n"


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


@pytest.fixture(scope="module")
def shipped() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.mark.slow
def test_a_new_tokenizer_has_the_same_specials_and_splits_alike(words: Tokenizer) -> None:
    built = tokenizer.build()
    for name in tokenizer.special_tokens():
        assert built.token_to_id(name) == words.token_to_id(name)
    assert json.loads(built.to_str())["pre_tokenizer"] == json.loads(words.to_str())["pre_tokenizer"]


def test_fixed_ids(words: Tokenizer) -> None:
    expected = {
        "<s>": 1,
        "</s>": 2,
        "<|im_start|>": 10,
        "<|im_end|>": 11,
        "<think>": 12,
        "</think>": 13,
        "<SPECIAL_100>": 100,
    }
    assert {text: words.token_to_id(text) for text in expected} == expected


def test_every_byte_and_any_language_round_trips(words: Tokenizer) -> None:
    rng = random.Random(0)
    texts = ["Žluťoučký kůň", "日本語のテキスト", "héllo\tworld\r\n  x", "🙂👍🏽", "a_b __c  12345 1,000.5"]
    texts.append(" \\frac{1}{2}")
    texts.append("".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(500)))
    for text in texts:
        assert words.decode(words.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text
    assert len({words.token_to_id(letter) for letter in pre_tokenizers.ByteLevel.alphabet()}) == 256


def test_digits_are_single_tokens_and_task_words_too(words: Tokenizer) -> None:
    assert len(words.encode("12345").ids) == 5
    for text in ("\n", "system", "user", "assistant", " apples", " answer", " \\boxed", "python", "return"):
        assert len(words.encode(text).ids) == 1, text


def test_thinking_tokens_are_kept_when_special_tokens_are_skipped(shipped: AutoTokenizer) -> None:
    assert shipped.decode([10, 12, 13, 11], skip_special_tokens=True) == "<think></think>"
    assert shipped.eos_token_id == 11


def render(shipped: AutoTokenizer, messages: list[dict[str, str]], **options: bool) -> str:
    return str(shipped.apply_chat_template(messages, tokenize=False, **{"add_generation_prompt": True} | options))


def test_one_user_turn(shipped: AutoTokenizer) -> None:
    text = render(shipped, [{"role": "user", "content": "Hi"}])
    assert text == tokenizer.render("Hi")
    assert text == (f"{EMPTY_SYSTEM}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>")
    assert shipped(text, add_special_tokens=False)["input_ids"][:5] == [
        10,
        shipped.convert_tokens_to_ids("system"),
        shipped.encode("\n", add_special_tokens=False)[0],
        11,
        shipped.encode("\n", add_special_tokens=False)[0],
    ]


def test_thinking_and_system_turn(shipped: AutoTokenizer) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    text = render(shipped, messages, enable_thinking=True)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert text.endswith("<|im_start|>assistant\n<think>\n")


def test_history_loses_its_thinking_unless_told_otherwise(shipped: AutoTokenizer) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nhm</think>\nyes"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "c"},
    ]
    short = render(shipped, messages)
    assert "<|im_start|>assistant\n<think></think>yes<|im_end|>\n" in short
    assert "<|im_start|>assistant\n<think></think>no<|im_end|>\n" in short
    assert "<think>\nhm</think>\nyes" in render(shipped, messages, truncate_history_thinking=False)


def test_template_names_what_detects_its_family() -> None:
    text = (MODEL_DIR / "chat_template.jinja").read_text()
    assert "truncate_history_thinking" in text
    assert "enable_thinking if enable_thinking is defined else False" in text
