"""The compare command: two modes or two sweeps, sample by sample."""
