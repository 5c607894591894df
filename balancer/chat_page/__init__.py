"""The chat page: static files, and the one document that they make."""
