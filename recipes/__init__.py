"""Recipes: how the bundled checkpoints are made; no other room imports from here."""
