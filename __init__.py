"""trimode: evaluates and serves tri-mode language models."""
