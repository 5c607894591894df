"""How the nodes of one job find each other: names of the environment that its batch script gives to all of them."""

from __future__ import annotations

NODES_TOKEN = "TRIMODE_NODES_TOKEN"  # noqa: S105 (a name)
"""A secret that all nodes of one server share. Without it the server makes one of its own."""
JOIN_FILE = "TRIMODE_JOIN_FILE"
"""Path of the file in which the further nodes find the server's address."""
