"""The tri-mode transformer: checkpoint, layers, KV cache and adapter."""
