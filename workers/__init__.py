"""One process, one device: checkpoint, model, KV cache, decoding modes, engine. Knows no HTTP, Ray or Hydra."""
