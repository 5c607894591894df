"""Sends the samples of a job to the model and stores scored rows."""
