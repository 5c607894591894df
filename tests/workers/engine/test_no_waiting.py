"""Within a step the host never waits for the device: one copy to it, one back, and no value is read in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from trimode.tests.fakes.device import DEVICE, FakeDevice, waits
from trimode.tests.workers.micro import MICRO, load_cases
from trimode.workers.engine.engine import Engine
from trimode.workers.engine.runner import Runner
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.model.adapter import load_adapter, open_adapter
from trimode.workers.model.checkpoint import open_weights, read_config
from trimode.workers.model.transformer import TriModeModel
from trimode.workers.params import parse_params

PROMPT = [1, 50, 22, 18, 35, 28, 38, 18, 31, 24, 42, 18, 4, 7, 18, 25]


@pytest.fixture(scope="module")
def device() -> Iterator[FakeDevice]:
    with torch.inference_mode(), FakeDevice() as device:
        yield device


@pytest.fixture(scope="module")
def engine(device: FakeDevice) -> Engine:  # noqa: ARG001 -- the device must be on
    """The micro model with its adapter on the fake device."""
    config = read_config(MICRO)
    model = TriModeModel(config, open_weights(MICRO), torch.float32, DEVICE)
    model.adapter = load_adapter(*open_adapter(MICRO / "linear_spec_lora", config), config.num_layers, model.embedding)
    return Engine(model, 64, 8)


def ask(engine: Engine, fields: dict[str, object]) -> Sequence:
    prompt = fields.get("prompt_ids", PROMPT)
    assert isinstance(prompt, list)
    return engine.add("r", prompt, parse_params({k: v for k, v in fields.items() if k != "prompt_ids"}))


def run(engine: Engine, device: FakeDevice) -> None:
    """Runs to the end; every step must bring one buffer to the device and one back, without waiting in between."""
    device.strict = True
    try:
        while engine.busy:
            device.copies.clear()
            engine.step()
            assert device.copies == ["to device", "to host"]
    finally:
        device.strict = False


SAMPLED = {"temperature": 0.9, "seed": 4, "top_p": 0.9, "top_k": 20, "min_p": 0.01}
KINDS: dict[str, list[dict[str, object]]] = {
    "greedy": [{"mode": "ar"}, {"mode": "dlm", "threshold": 0.8}, {"mode": "dlm"}, {"mode": "linear_spec"}],
    "adapter": [{"mode": "linear_spec", "lora": True}, {"mode": "linear_spec"}, {"mode": "ar"}],
    "adapter everywhere": [{"mode": "linear_spec", "lora": True}],
    "sampled": [{"mode": mode, **SAMPLED} for mode in ("ar", "dlm", "linear_spec")],
    "by equality": [{"mode": "linear_spec", "temperature": 0.9, "acceptance": "equality"}],
    "penalties": [{"mode": mode, "repetition_penalty": 1.3} for mode in ("ar", "dlm", "linear_spec")],
    "other penalties": [
        {"mode": mode, "presence_penalty": 0.5, "frequency_penalty": 0.1, "logit_bias": {"7": 1.5}}
        for mode in ("ar", "dlm", "linear_spec")
    ],
    "alternatives": [{"mode": mode, "logprobs": True, "top_logprobs": 3} for mode in ("ar", "dlm", "linear_spec")],
    "rated prompts": [
        {"mode": mode, "logprobs": True, "top_logprobs": 5, "prompt_logprobs": 2}
        for mode in ("ar", "dlm", "linear_spec")
    ],
    "forced tokens": [
        {"mode": mode, "max_thinking_tokens": 5, "end_think_token_id": 9, "logprobs": True}
        for mode in ("ar", "dlm", "linear_spec")
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_copies_once_each_way_and_waits_for_nothing(engine: Engine, device: FakeDevice, kind: str) -> None:
    asked = [{"max_new_tokens": 12, "ignore_eos": True, "block_length": 4, **fields} for fields in KINDS[kind]]
    for fields in asked:
        if fields["mode"] == "ar":
            fields["block_length"] = 1
    sequences = [ask(engine, fields) for fields in asked]
    run(engine, device)
    assert [(s.error, len(s.state.tokens())) for s in sequences] == [(None, 12)] * len(sequences)


@pytest.mark.parametrize("name", ["1-ar", "1-dlm_0.9", "1-linear_spec_0.0", "1-linear_spec_lora"])
def test_the_fake_device_computes_the_goldens(engine: Engine, device: FakeDevice, name: str) -> None:
    case = next(case for case in load_cases() if case.name == name)
    sequence = ask(engine, case.fields)
    run(engine, device)
    assert sequence.state.tokens() == case.tokens


def test_prompts_in_slices_copy_nothing_back_that_nobody_reads(engine: Engine, device: FakeDevice) -> None:
    """A slice that is not the prompt's last one wants no logits."""
    engine._prefill_slice = 8
    try:
        sequence = ask(engine, {"mode": "ar", "max_new_tokens": 1})
        device.copies.clear()
        device.strict = True
        engine.step()
        assert device.copies == ["to device"]
        engine.step()
        assert device.copies == ["to device", "to device", "to host"]
    finally:
        device.strict = False
        engine._prefill_slice = 512
    assert sequence.state.finish_reason == "length"


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.__setitem__(torch.tensor([0, 1]), 1.0),
        lambda x: x.index_put_((torch.tensor([0]).to(DEVICE, non_blocking=True),), torch.ones(1)),
        lambda x: x + torch.ones(3),
        lambda x: x.copy_(torch.ones(3)),
        lambda _: torch.ones(3).to(DEVICE),
        lambda x: bool((x > 0).all()),
    ],
    ids=["item", "nonzero", "mask", "host index", "host value", "mixed", "copy", "pageable copy", "condition"],
)
def test_the_fake_device_refuses_what_waits(device: FakeDevice, call: Callable[[torch.Tensor], object]) -> None:
    x = torch.arange(3.0, device=DEVICE)
    assert waits(device, lambda: call(x))


def test_the_fake_device_lets_work_pass_that_waits_for_nothing(device: FakeDevice) -> None:
    x = torch.arange(3.0, device=DEVICE)
    index = torch.tensor([0, 2]).to(DEVICE, non_blocking=True)
    assert not waits(device, lambda: torch.where(x > 1, x * 2, 0.0)[index].index_put_((index[:1],), x[:1]))


class Asynchronous(Runner):
    """The fake device, taken for one that works beside the host."""

    @property
    def asynchronous(self) -> bool:
        return True


def test_a_step_launched_ahead_copies_once_each_way_too(engine: Engine, device: FakeDevice) -> None:
    """The samples of a step are read only after the next step has been launched."""
    fields = {"mode": "ar", "max_new_tokens": 8, "ignore_eos": True}
    plain = ask(engine, fields)
    run(engine, device)
    engine.runner.__class__ = Asynchronous
    try:
        sequence = ask(engine, fields)
        device.copies.clear()
        device.strict = True
        while engine.busy:
            engine.step()
    finally:
        device.strict = False
        engine.runner.__class__ = Runner
    assert device.copies == ["to device", *["to device", "to host"] * 7, "to host"]
    assert sequence.state.tokens() == plain.state.tokens()
