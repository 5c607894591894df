"""OpenAI-compatible HTTP in front of the workers. Knows requests and worker handles, not models."""
