"""The HTTP side of the balancer: routes, request fields, OpenAI-shaped replies."""
