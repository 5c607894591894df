"""One buffer of many small arrays: where they stand, and what does not fit."""

from __future__ import annotations

from array import array

import pytest
import torch
from trimode.kernels.packing import ALIGNMENT, BufferLayout, Download, Part, host_buffer, memory_of, upload

CPU = torch.device("cpu")
PARTS = [
    Part("small", torch.int32, (3,)),
    Part("large", torch.int64, (5,)),
    Part("none", torch.int64, (0,)),
    Part("table", torch.int32, (2, 3)),
    Part("real", torch.float64, (1,)),
]


def test_every_part_reads_as_it_was_written() -> None:
    layout = BufferLayout(PARTS)
    buffer = host_buffer(layout.num_bytes, CPU)
    values = {
        "small": array("i", [1, -2, 3]),
        "large": array("q", [2**40, 0, -1, 7, 8]),
        "none": array("q"),
        "table": array("i", range(6)),
        "real": array("d", [0.1]),
    }
    for name, data in values.items():
        layout.write(memory_of(buffer), name, data)
    views = layout.views(buffer)
    assert {name: view.tolist() for name, view in views.items()} == {
        "small": [1, -2, 3],
        "large": [2**40, 0, -1, 7, 8],
        "none": [],
        "table": [[0, 1, 2], [3, 4, 5]],
        "real": [0.1],
    }
    assert {name: view.dtype for name, view in views.items()} == {part.name: part.dtype for part in PARTS}


def test_parts_are_aligned_and_large_elements_come_first() -> None:
    layout = BufferLayout(PARTS)
    offsets = [layout.offset(name) for name in ("large", "none", "real", "small", "table")]
    assert offsets == [0, 48, 48, 64, 80]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    assert layout.num_bytes == 112


def test_a_buffer_may_be_longer_than_its_layout_and_keeps_its_address() -> None:
    layout = BufferLayout(PARTS)
    buffer = torch.zeros(layout.num_bytes + 1024, dtype=torch.uint8)
    assert layout.views(buffer)["table"].data_ptr() == buffer.data_ptr() + layout.offset("table")


def test_nothing_to_pack_still_has_an_address() -> None:
    layout = BufferLayout([Part("none", torch.int32, (0, 4))])
    assert layout.views(host_buffer(layout.num_bytes, CPU))["none"].shape == (0, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (array("i", [1, 2]), r"packing: small: got 2 elements of 4 bytes, expected 3 of 4"),
        (array("q", [1, 2, 3]), r"packing: small: got 3 elements of 8 bytes, expected 3 of 4"),
    ],
)
def test_what_does_not_fit_is_named(values: array[int], message: str) -> None:
    layout = BufferLayout(PARTS)
    with pytest.raises(ValueError, match=message):
        layout.write(memory_of(host_buffer(layout.num_bytes, CPU)), "small", values)


def test_missing_elements_are_filled_only_on_demand() -> None:
    layout = BufferLayout(PARTS)
    buffer = host_buffer(layout.num_bytes, CPU)
    layout.write(memory_of(buffer), "small", array("i", [5]), fill=-1)
    assert layout.views(buffer)["small"].tolist() == [5, -1, -1]
    with pytest.raises(ValueError, match="got 4 elements"):
        layout.write(memory_of(buffer), "small", array("i", range(4)), fill=-1)


def test_an_upload_gives_every_array_its_tensor() -> None:
    tensors = upload({"a": array("q", [1, 2]), "b": array("f", [0.5]), "none": array("d")}, CPU)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [1, 2], "b": [0.5], "none": []}
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 1


def test_a_download_gives_the_tensor() -> None:
    assert Download(torch.arange(3)).wait().tolist() == [0, 1, 2]
