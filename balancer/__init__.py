"""OpenAI-compatible HTTP server in front of the workers. Imports core only; the worker class is given by name."""
