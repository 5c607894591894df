"""What a sweep may ask for: names and types, Hydra's choices, checks, and the flags of eval.sh."""
