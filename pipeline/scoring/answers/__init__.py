"""Answers that are compared as values: mathematics and multiple choice."""
