"""What the balancer adds to its workers: latency, throughput and gaps between tokens, beside the workers alone."""
