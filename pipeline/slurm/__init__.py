"""Speaks with Slurm: batch scripts and the queue."""
