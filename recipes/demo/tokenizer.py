"""Builds the demo tokenizer: byte-level BPE whose vocabulary holds every word of the tasks.

Words of the tasks are whole entries (`ignore_merges`). All other text falls back to a few merges and to bytes."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from trimode.recipes.demo.dataset import Sampler

NUM_SPECIAL = 101
BOS_ID, END_ID, TURN_START_ID, EOS_ID, THINK_ID, END_THINK_ID, MASK_ID = 1, 2, 10, 11, 12, 13, 100
NAMED = {
    0: "<unk>",
    BOS_ID: "<s>",
    END_ID: "</s>",
    TURN_START_ID: "<|im_start|>",
    EOS_ID: "<|im_end|>",
    THINK_ID: "<think>",
    END_THINK_ID: "</think>",
}
NUM_MERGES = 150
PATTERN = r" ?\\[a-z]+|[ _]?[A-Za-z]+|[0-9]|\n|    +| ?[^\sA-Za-z0-9_]|_|\s"
CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def special_tokens() -> list[str]:
    """Returns the first entries of the vocabulary."""
    return [NAMED.get(index, f"<SPECIAL_{index}>") for index in range(NUM_SPECIAL)]


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _corpus() -> list[str]:
    pairs = Sampler().train_pairs(12000, "tokenizer")
    return ["system\nuser\nassistant\n"] + [text for pair in pairs for text in pair]


def build() -> Tokenizer:
    """Builds it from specials, bytes, a few merges, then every other piece of the training text in sorted order."""
    corpus = _corpus()
    specials = special_tokens()
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = _pre_tokenizer()
    draft.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=NUM_SPECIAL + 256 + NUM_MERGES,
            special_tokens=specials,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    state = json.loads(draft.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    splitter = _pre_tokenizer()
    pieces = {piece for text in corpus for piece, _ in splitter.pre_tokenize_str(text)}
    for piece in sorted(pieces - vocabulary.keys()):
        vocabulary[piece] = len(vocabulary)
    merges = [(left, right) for left, right in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    plain = {THINK_ID, END_THINK_ID}
    for index, text in enumerate(specials):
        token = AddedToken(text, special=index not in plain, normalized=False)
        (tokenizer.add_tokens if index in plain else tokenizer.add_special_tokens)([token])
    return tokenizer


def build_once(folder: Path) -> Tokenizer:
    """Returns the tokenizer of a work folder, built if it is not there yet."""
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        build().save(str(path))
    return Tokenizer.from_file(str(path))


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "model_max_length": 16384,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.read_text())


def render(user_message: str) -> str:
    """Returns one user turn as the chat template renders it, thinking off, ready for the answer."""
    return (
        f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{user_message}<|im_end|>\n"
        "<|im_start|>assistant\n<think></think>"
    )
