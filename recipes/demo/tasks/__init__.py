"""The four demo tasks; each module draws one example from a random generator."""
