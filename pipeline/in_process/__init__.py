"""Evaluates in one process, with a worker but without server and Slurm (evaluate.py)."""
