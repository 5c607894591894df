"""The best token and the softmax of logits: against float64, the lowest of equal tokens, a row alone to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from trimode.kernels.best_token import best_token, cuda, describe
from trimode.kernels.cuda import runtime
from trimode.tests.kernels.numerics import normal

GPU_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WIDTHS = [1, 16, 17, 31, 944, 40001]


def check(logits: torch.Tensor, suppressed: int | None, *, lowest: bool) -> None:
    """Compares with float64; `lowest`: of equal logits the lowest token is due."""
    got = best_token(logits, suppressed=suppressed)
    assert [part.dtype for part in got] == [torch.int64] + [torch.float32] * 3
    wide = logits.double().cpu()
    allowed = wide.clone()
    if suppressed is not None:
        allowed[:, suppressed] = -math.inf
    tokens, values, peak, total = (part.cpu() for part in got)
    assert torch.equal(allowed.gather(1, tokens.unsqueeze(1))[:, 0], allowed.amax(dim=1))
    assert torch.equal(values.double(), wide.gather(1, tokens.unsqueeze(1))[:, 0])
    if lowest:
        assert torch.equal(tokens, (allowed == allowed.amax(dim=1, keepdim=True)).int().argmax(dim=1))
    assert torch.equal(peak.double(), wide.amax(dim=-1))
    exact = (wide - wide.amax(dim=-1, keepdim=True)).exp().sum(dim=-1)
    assert ((total - exact).abs() / exact).max() <= 1e-6


def cases(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    logits = (normal(rows, width + 3, dtype=torch.float32) * 6)[:, :width]
    logits[1, 1:] = -1e4
    logits[2] = 0.0
    logits[3, -1] = 90.0
    logits[4, [0, width // 2, -1]] = 50.0
    return logits.to(dtype) if dtype != logits.dtype else logits


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("width", WIDTHS)
def test_one_read_gives_the_token_and_the_softmax(width: int, lanes: int) -> None:
    logits = cases(6, width, torch.float32)
    assert describe(logits).startswith("cpu") == (0 < lanes <= width)
    check(logits, None, lowest=0 < lanes <= width)
    if width > 1:
        for suppressed in (0, width // 2, width - 1):
            check(logits, suppressed, lowest=0 < lanes <= width)


@pytest.mark.parametrize("dtype", GPU_DTYPES)
@pytest.mark.parametrize("width", [*WIDTHS[:-1], 1024, 2049])
def test_on_a_gpu(width: int, dtype: torch.dtype, gpu: torch.device) -> None:
    logits = cases(6, width, dtype).to(gpu)
    assert describe(logits) == f"cuda, sm_{runtime.capability(gpu)}"
    check(logits, None, lowest=True)
    if width > 1:
        check(logits, width - 1, lowest=True)
        check(logits, width // 2, lowest=True)


def test_a_whole_vocabulary_on_a_gpu(gpu: torch.device) -> None:
    logits = normal(1, 131072, dtype=torch.bfloat16) * 3
    logits[0, [1023, 1024, 131071]] = 40.0
    check(logits.to(gpu), 1023, lowest=True)


def test_programs_that_take_several_splits_change_no_bit(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = (normal(3, 5000) * 6).to(gpu)
    many = best_token(logits, suppressed=7)
    monkeypatch.setattr(runtime, "num_sms", lambda _device: 1)
    monkeypatch.setattr(cuda, "PROGRAMS_PER_SM", 6)  # two programs for each row of five splits
    for part, other in zip(many, best_token(logits, suppressed=7), strict=True):
        assert torch.equal(part, other)
    for part, other in zip(many, best_token(logits[1:2], suppressed=7), strict=True):
        assert torch.equal(part[1:2], other)


def test_logits_are_not_written(gpu: torch.device) -> None:
    logits = normal(2, 40).to(gpu)
    before = logits.clone()
    best_token(logits, suppressed=3)
    assert torch.equal(logits, before)


def special_rows(width: int) -> torch.Tensor:
    logits = normal(5, width)
    logits[0, -1] = math.nan
    logits[1] = math.nan
    logits[2] = -math.inf
    logits[3, : width - 1] = -math.inf
    return logits


def check_special_rows(logits: torch.Tensor) -> None:
    width = logits.shape[1]
    got = best_token(logits, suppressed=0)
    assert ((got.tokens_R >= 0) & (got.tokens_R < width)).all()
    assert got.total_R.isnan().tolist() == [True, True, True, False, False]
    assert got.tokens_R[3] == width - 1
    assert got.total_R[3] == 1.0


@pytest.mark.usefixtures("lanes")
def test_what_is_not_finite() -> None:
    check_special_rows(special_rows(37))


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_what_is_not_finite_on_a_gpu(gpu: torch.device) -> None:
    check_special_rows(special_rows(1030).to(gpu))
    check_special_rows(special_rows(37).to(gpu).half())


@pytest.mark.usefixtures("vector_lanes", "threads")
def test_a_row_does_not_depend_on_the_others() -> None:
    logits = normal(5, 40001) * 6
    for together, alone in zip(best_token(logits), best_token(logits[3:4]), strict=True):
        assert torch.equal(together[3:4], alone)


def test_rows_that_the_kernel_refuses(gpu: torch.device) -> None:
    logits = normal(2, 40).to(gpu)[:, ::2]
    assert cuda.supports(logits) == "the logits of a row are not contiguous"
    check(logits, 3, lowest=False)


def test_no_rows(gpu: torch.device) -> None:
    assert [len(part) for part in best_token(torch.empty(0, 40, device=gpu))] == [0] * 4


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("logits", [torch.zeros(5), torch.zeros(2, 0), torch.zeros(2, 3, dtype=torch.float64)])
def test_what_does_not_fit_is_named(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"best_token: got .* expected float32, bfloat16 or float16 \[R, V\]"):
        best_token(logits)


@pytest.mark.parametrize("suppressed", [-1, 3])
def test_a_token_that_is_none_cannot_be_suppressed(suppressed: int) -> None:
    with pytest.raises(ValueError, match=rf"best_token: got suppressed {suppressed}, expected 0 to 2 or None"):
        best_token(torch.zeros(2, 3), suppressed=suppressed)
