"""NeMo-Skills as the client: finds its installation, runs it, and exchanges files with it."""
