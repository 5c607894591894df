"""Answers that are programs: they run in the sandbox against tests."""
