"""Runs programs that a model wrote, in processes with limits. This is no security sandbox: see `run`."""
