"""The engine: schedules requests, runs one ragged forward per step, and counts every forward."""
