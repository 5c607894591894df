"""Chats with a model on a terminal, in this process or through a running server."""
