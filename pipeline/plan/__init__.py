"""From a config to frozen job specs, and to what is left of each job. Reads the disk, starts nothing."""
