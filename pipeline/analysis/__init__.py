"""Numbers over runs: reading, intervals, pairing, gates. No output format."""
