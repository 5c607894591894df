"""What a sweep on Slurm survives: processes killed, nodes lost, disks full, at random moments of real jobs."""
