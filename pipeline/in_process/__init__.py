"""The evaluation in one process: the engine without server and without Slurm (evaluate.py)."""
