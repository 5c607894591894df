"""The settings that a dry run shows of an evaluation that asks a running server."""

from __future__ import annotations

import json

from trimode.pipeline.config.schema import Config
from trimode.pipeline.plan.survey import Survey, absolute
from trimode.pipeline.spec import ServerSpec


def server_settings(config: Config, survey: Survey, server: ServerSpec) -> list[tuple[str, object]]:
    """Returns label and value of every setting that acts. The dry run does not ask the server for anything else."""
    cluster = config.cluster
    (mode,) = config.modes
    return [
        ("server", f"{server.url} (running already; no model is started)"),
        ("engine", server.engine),
        ("model", f"{survey.model.path} (the server's name for it)"),
        ("mode", f"{mode} (a name for reports; the server decodes in its own way)"),
        ("API key", server.api_key_file or "none"),
        ("further fields", json.dumps(server.fields) if server.fields else "none"),
        ("at a time", f"{config.balancer.max_in_flight} requests"),
        ("tokens", config.max_new_tokens),
        ("temperature", f"{config.temperature:g}"),
        ("top_p", f"{config.top_p:g}"),
        ("starting seed", config.starting_seed),
        ("thinking", "on, without a budget" if config.enable_thinking else "off"),
        ("limit", config.limit or "none"),
        ("data", absolute(config.data_dir, survey.cwd) if config.data_dir else "bundled, cached or downloaded"),
        ("cluster", f"{cluster.name} ({cluster.executor.value})"),
        ("client", config.client.kind.value),
        ("jobs per", config.jobs_per.value),
        ("chunks", config.num_chunks),
        ("out dir", absolute(config.out_dir, survey.cwd)),
    ]
