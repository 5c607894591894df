"""From a config to frozen job specs, and to what is left to run of each. Reads the disk and starts nothing."""
