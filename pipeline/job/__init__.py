"""What happens inside the allocation: workers behind a balancer, then the job's benchmarks."""
