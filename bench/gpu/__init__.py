"""Measures the GPU path on one card, and runs the same code at a tiny size without one: see `bench/gpu.sh`."""
