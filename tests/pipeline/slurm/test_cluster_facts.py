"""What scontrol prints, as facts."""

from __future__ import annotations

import pytest
from trimode.pipeline.slurm.cluster_facts import gpus, minutes, nodes, partitions, settings
from trimode.tests.fakes.slurm_commands import CONFIG, NODES, PARTITIONS


def test_settings_partitions_and_nodes() -> None:
    assert settings(CONFIG)["MaxArraySize"] == "1001"
    main, short, closed = partitions(PARTITIONS)
    assert (main.name, main.is_default, main.max_minutes, main.max_nodes) == ("main", True, 1440, None)
    assert (short.is_default, short.max_minutes, short.max_nodes) == (False, 30, 1)
    assert (closed.state, closed.max_minutes) == ("DOWN", None)
    first, second = nodes(NODES)
    assert (first.gpus, first.cpus, first.memory_mb, first.usable) == (8, 64, 512000, True)
    assert first.partitions == ("main", "short", "closed")
    assert not second.usable


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("gpu:8", 8),
        ("gpu", 1),
        ("gpu:h100:4(S:0-1),gpu:a100:2", 6),
        ("gpu:h100:8(S:0-1)", 8),
        ("shard:16,gpu:2", 2),
        ("(null)", 0),
        ("", 0),
    ],
)
def test_gpus_of_a_node(gres: str, count: int) -> None:
    assert gpus(gres) == count


@pytest.mark.parametrize(
    ("text", "number"), [("UNLIMITED", None), ("1-00:00:00", 1440), ("00:30:00", 30), ("04:00:01", 241), ("odd", None)]
)
def test_minutes_of_a_limit(text: str, number: int | None) -> None:
    assert minutes(text) == number
