"""One screen before the first run: what is there, what is missing, and what to do about it."""
