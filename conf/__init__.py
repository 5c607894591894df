"""Hydra choices: values, never logic."""
