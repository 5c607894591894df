"""The nodes of one server: which of them have joined the first one's Ray, and which are lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

LOOK_EVERY_S = 1.0
JOIN_S = 300.0
"""Seconds that a further node has to join while the server starts. A busy machine starts Ray slowly."""
MARK = "trimode_node_"
"""How the resource begins by which a further node says its number."""


@dataclass(frozen=True, slots=True)
class LivingNode:
    """A node whose Ray can start workers now."""

    node_id: str
    """Ray's; another one each time that a node joins."""
    name: str
    """The host, for messages."""


def living_nodes(listed: list[dict[str, Any]]) -> dict[int, LivingNode]:
    """Returns the further nodes that live, by number, from what `ray.nodes()` says."""
    found = {}
    for node in listed:
        for resource in node["Resources"] if node["Alive"] else ():
            if str(resource).startswith(MARK):
                found[int(resource.removeprefix(MARK))] = LivingNode(node["NodeID"], node["NodeName"])
    return found


def ray_nodes() -> dict[int, LivingNode]:
    """Returns the nodes that live: the one of this process is number 0."""
    here = LivingNode(ray.get_runtime_context().get_node_id(), "the first node")
    return {0: here, **living_nodes(ray.nodes())}


class Nodes:
    """Says where a worker can be started. `ask` returns the nodes that live and may block."""

    def __init__(self, num_nodes: int, ask: Callable[[], dict[int, LivingNode]] = ray_nodes) -> None:
        self._num_nodes = num_nodes
        self._ask = ask
        self._names: dict[int, str] = {}

    async def find(self, number: int) -> LivingNode | None:
        """Returns a node if it lives. For one node alone Ray is not asked."""
        if self._num_nodes == 1:
            return LivingNode("", "this node")
        node = (await asyncio.to_thread(self._ask)).get(number)
        if node is not None:
            self._names[number] = node.name
        return node

    async def wait_for(self, number: int, other_than: str = "") -> LivingNode:
        """Returns a node once it lives. `other_than`: an id that it had before it was lost."""
        while (node := await self.find(number)) is None or (other_than and node.node_id == other_than):
            await asyncio.sleep(LOOK_EVERY_S)
        return node

    def name(self, number: int) -> str:
        """Returns what messages call a node."""
        return self._names.get(number, f"node {number + 1} of {self._num_nodes}")
