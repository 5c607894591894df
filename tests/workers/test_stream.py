"""Parts of an answer: what has been sent stays true, and the parts together are the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimode.core.delta import Delta
from trimode.core.protocol import Generation, WorkerSettings
from trimode.workers.stream import StableText
from trimode.workers.text import Text
from trimode.workers.worker import Worker

MODEL = Path(__file__).resolve().parents[2] / "assets" / "demo_model"
QUESTION = (
    "Solve this problem.\nMax has 5 boxes with 6 stickers each and 2 more stickers. How many stickers does Max have?"
)
MODES = ("ar", "dlm", "linear_spec")
ALPHABET = "aé€😀"


def by_hand(tokens: list[bytes], stops: tuple[str, ...], sizes: list[int]) -> tuple[str, str]:
    """Returns the text in parts, joined, and the text as a whole. The output ends with the first token that completes
    a stop string, as in the engine."""
    end = len(tokens)
    for number in range(1, len(tokens) + 1):
        if any(stop in b"".join(tokens[:number]).decode(errors="replace") for stop in stops):
            end = number
            break
    whole = b"".join(tokens[:end]).decode(errors="replace")
    cut = min([at for stop in stops if (at := whole.find(stop)) >= 0], default=len(whole))
    stable = StableText(lambda token: tokens[token], stops)
    parts, start, sizes = "", 0, list(sizes)
    while start < end:
        size = sizes.pop() if sizes else 1
        parts += stable.add(range(start, min(end, start + size)))
        assert whole[:cut].startswith(parts)
        start += size
    return parts + stable.rest(whole[:cut]), whole[:cut]


pieces = st.one_of(
    st.sampled_from([character.encode()[:n] for character in ALPHABET for n in range(1, 5)]),
    st.sampled_from([character.encode()[1:] for character in ALPHABET]),
    st.text("ab\n", max_size=3).map(str.encode),
    st.binary(max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(pieces, max_size=12),
    st.lists(st.text("ab\né�", min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(1, 4), max_size=6),
)
def test_parts_joined_are_the_text(tokens: list[bytes], stops: list[str], sizes: list[int]) -> None:
    parts, whole = by_hand(tokens, tuple(stops), sizes)
    assert parts == whole


def test_the_beginning_of_a_stop_string_and_half_a_character_are_held_back() -> None:
    tokens = [b"one", b" \n", b"E", b"N", b"x", b"\xe2\x82", b"\xac"]
    stable = StableText(lambda token: tokens[token], ["\nEND"])
    assert [stable.add([number]) for number in range(7)] == ["one", " ", "", "", "\nENx", "", "€"]


def test_without_a_decoder_that_joins_bytes_the_text_comes_at_the_end() -> None:
    stable = StableText(None, [])
    assert stable.add([1, 2]) == ""
    assert stable.rest("the text") == "the text"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 943), max_size=30))
def test_the_bytes_of_tokens_make_the_text_that_the_tokenizer_makes(ids: list[int]) -> None:
    text = demo_text()
    assert text.joins_bytes
    assert b"".join(map(text.token_bytes, ids)).decode(errors="replace") == text.decode(ids)


def demo_text(found: list[Text] = []) -> Text:  # noqa: B006 -- read once
    found[:] = found or [Text(MODEL)]
    return found[0]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """The demo model, which has a tokenizer."""
    lora = str(MODEL / "linear_spec_lora")
    worker = Worker(
        WorkerSettings(model=str(MODEL), lora=lora, device="cpu", dtype="float32", max_num_seqs=8, kv_cache_gb=0.1)
    )
    yield worker
    worker.close()


def ask(worker: Worker, **fields: Any) -> tuple[list[Delta], Generation]:
    async def parts() -> list[Delta | Generation]:
        messages = [{"role": "user", "content": QUESTION}]
        return [part async for part in worker.stream({"messages": messages, "max_new_tokens": 48, **fields})]

    *deltas, whole = asyncio.run(parts())
    assert isinstance(whole, Generation)
    return [delta for delta in deltas if isinstance(delta, Delta)], whole


def joined(deltas: list[Delta]) -> tuple[str, list[int], list[float]]:
    return (
        "".join(delta.text for delta in deltas),
        [token for delta in deltas for token in delta.token_ids],
        [value for delta in deltas for value in delta.logprobs or ()],
    )


STOPS = ([], ["32"], [" stickers. M", "xyz"], ["Then,", "n, 3"], ["\\boxed{32}"], ["\\boxed{32}.", "never"], ["F"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_stream_is_the_answer(worker: Worker, mode: str, stop: list[str], temperature: float) -> None:
    fields = {"mode": mode, "stop": stop, "temperature": temperature, "seed": 3, "logprobs": True}
    deltas, whole = ask(worker, **fields)
    assert joined(deltas) == (whole.text, whole.token_ids, whole.logprobs)
    messages = [{"role": "user", "content": QUESTION}]
    alone = asyncio.run(worker.generate({"messages": messages, "max_new_tokens": 48, **fields}))
    assert (alone.text, alone.token_ids, alone.cost.nfe) == (whole.text, whole.token_ids, whole.cost.nfe)
    assert not any(delta.passes for delta in deltas)


@pytest.mark.parametrize(("mode", "most"), [("ar", 1), ("dlm", 8), ("linear_spec", 32)])
def test_tokens_come_as_they_are_committed(worker: Worker, mode: str, most: int) -> None:
    deltas, whole = ask(worker, mode=mode)
    lengths = [len(delta.token_ids) for delta in deltas if delta.token_ids]
    assert max(lengths) <= most
    if mode == "linear_spec":
        assert lengths == [1, *whole.cost.acceptance_lengths]
    else:
        assert lengths == [most] * (len(whole.token_ids) // most)


def test_dlm_shows_its_block_after_each_pass(worker: Worker) -> None:
    deltas, whole = ask(worker, mode="dlm", threshold=None, stream_events="denoise")
    passes = [one for delta in deltas for one in delta.passes]
    assert whole.trace is not None
    assert [len([p for p in passes if p["block"] == number]) for number in range(len(whole.trace))] == [
        len(commits)
        for commits in whole.trace  # type: ignore[arg-type]
    ]
    for one in passes:
        states = [token["state"] for token in one["tokens"]]
        assert states.count("committed") == 1 + one["pass"]
        assert states.count("mask") == 7 - one["pass"]
        assert one["start"] == 8 * one["block"]
        for token in one["tokens"]:
            is_mask = token["state"] == "mask"
            assert (token["p"] is None) == (token["pass"] is None) == is_mask
            assert is_mask or 0 < token["p"] <= 1
    last = [one for one in passes if one["pass"] == 7]
    shown = [token["id"] for one in last for token in one["tokens"]]
    assert shown[: len(whole.token_ids)] == whole.token_ids


def test_linear_spec_shows_drafts_and_what_became_of_them(worker: Worker) -> None:
    deltas, whole = ask(worker, mode="linear_spec", block_length=8, temperature=1.5, stream_events="denoise")
    passes = [one for delta in deltas for one in delta.passes]
    assert [token["state"] for token in passes[0]["tokens"]] == ["committed"]
    answer = [token["id"] for token in passes[0]["tokens"]]
    drafts = passes[1::2]
    verifies = passes[2::2]
    assert len(drafts) == len(verifies) == len(whole.cost.acceptance_lengths)
    some_struck = False
    for cycle, (draft, verify) in enumerate(zip(drafts, verifies, strict=True)):
        assert draft["block"] == verify["block"] == cycle
        assert (draft["pass"], verify["pass"]) == (1, 2)
        assert draft["start"] == verify["start"] == len(answer)
        drafted = [token["id"] for token in draft["tokens"]]
        states = [token["state"] for token in verify["tokens"]]
        num_verified = states.count("verified")
        assert states == ["verified"] * num_verified + ["committed"] + ["struck"] * (len(drafted) - num_verified)
        some_struck |= "struck" in states
        ids = [token["id"] for token in verify["tokens"]]
        assert ids[:num_verified] + ids[num_verified + 1 :] == drafted
        answer += ids[: num_verified + 1]
    assert some_struck
    assert answer[: len(whole.token_ids)] == whole.token_ids


def test_ar_shows_each_token(worker: Worker) -> None:
    deltas, whole = ask(worker, mode="ar", stream_events="denoise", logprobs=True)
    passes = [one for delta in deltas for one in delta.passes]
    assert [one["start"] for one in passes] == list(range(len(whole.token_ids)))
    assert [one["tokens"][0]["id"] for one in passes] == whole.token_ids
    assert "".join(one["tokens"][0]["text"] for one in passes) == whole.text


def test_a_stream_that_nobody_reads_any_more_ends(worker: Worker) -> None:
    async def leave() -> None:
        fields = {"prompt": "1", "mode": "ar", "max_new_tokens": 4000, "ignore_eos": True}
        stream = worker.stream(fields)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        while (await worker.stats()).running:
            await asyncio.sleep(0.001)

    asyncio.run(leave())


@pytest.mark.parametrize("mode", MODES)
def test_parts_of_a_whole_answer_are_rare_and_say_only_where_it_could_go_on(worker: Worker, mode: str) -> None:
    streamed, whole = ask(worker, mode=mode, logprobs=True)
    often, same = ask(worker, mode=mode, logprobs=True, parts_every_s=0)
    rarely, again = ask(worker, mode=mode, logprobs=True, parts_every_s=3600)
    assert same.token_ids == again.token_ids == whole.token_ids
    assert [(part.token_ids, part.boundary) for part in often] == [
        (part.token_ids, part.boundary) for part in streamed if part.token_ids
    ]
    assert rarely == []
    assert not any(part.text or part.passes for part in often)
