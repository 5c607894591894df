"""Writes down where running requests stand, so that another worker can go on with them after a death."""
