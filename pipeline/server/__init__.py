"""A running server with OpenAI's API that this project did not start: its address, its models, its errors."""
