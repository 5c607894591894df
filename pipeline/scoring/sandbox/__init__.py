"""Runs programs that a model wrote in processes with few rights, and judges their results in other processes."""
