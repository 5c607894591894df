"""Fetches checkpoints and adapters from the hub: pinned revisions, checksums, downloads that go on."""
