"""Runs programs that a model wrote in limited processes."""
