"""The decoding modes as state machines without tensors: each one hands out chunks to run and takes back samples."""
