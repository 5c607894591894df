"""Foundation of pipeline, balancer and workers: what at least two of them need. Standard library only."""
