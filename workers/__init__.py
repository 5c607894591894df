"""One process, one device: checkpoint, model, KV cache, decoding modes, engine."""
