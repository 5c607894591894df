"""Turns a typed config into the frozen jobs of a sweep. The dry run and the submission use the same jobs.

`plan` is a pure function: all it needs from the disk is in the survey, apart from the registry of benchmarks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trimode.core.errors import ConfigError
from trimode.core.protocol import Mode, Quantization
from trimode.pipeline.benchmarks import load_benchmark
from trimode.pipeline.config.schema import Config, ModeConfig
from trimode.pipeline.config.submission_checks import stays_in_its_line
from trimode.pipeline.plan.identity import eval_dir_name, run_identity
from trimode.pipeline.plan.names import derived_name, label, model_label
from trimode.pipeline.plan.resources import container_mounts, resource_spec
from trimode.pipeline.plan.server_runs import (
    server_decode,
    server_exp_name,
    server_identity,
    server_model,
)
from trimode.pipeline.plan.survey import Survey, absolute
from trimode.pipeline.spec import (
    ClientSpec,
    DecodeSpec,
    Executor,
    JobSpec,
    JobsPer,
    ModelSpec,
    SampleShare,
    ServerSpec,
    TaskSpec,
)


def plan(config: Config, survey: Survey) -> tuple[JobSpec, ...]:
    """Returns every job of the sweep, in the order of its modes.

    Raises ConfigError if two modes would share a folder, or a quantised checkpoint would be quantised again.
    """
    if survey.stored_quantization and config.model.quantization is not Quantization.none:
        raise ConfigError(
            f"model.quantization of {survey.model.path}, which is quantised ({survey.stored_quantization}): "
            f"got {config.model.quantization.value}; valid: none, which runs it as it is"
        )
    tasks = task_specs(config)
    jobs: list[JobSpec] = []
    entries: dict[str, str] = {}
    for name in config.modes:
        job = mode_job(config, survey, name, tasks)
        if (twin := entries.setdefault(job.run_dir, name)) != name:
            raise ConfigError(f"modes of a sweep differ in what they answer: {twin} and {name} are the same run")
        jobs += _split(job, config.jobs_per, config.num_chunks)
    return tuple(jobs)


def _split(job: JobSpec, jobs_per: JobsPer, num_chunks: int) -> list[JobSpec]:
    """Returns the job itself, or its parts per benchmark, per share of the samples, or both; numbered by `index`."""
    parts = [job]
    if jobs_per is JobsPer.benchmark:
        parts = [replace(job, name=f"{job.name}-{task.benchmark}", tasks=(task,)) for task in job.tasks]
    if num_chunks > 1:
        chunks = [SampleShare(index, num_chunks) for index in range(num_chunks)]
        parts = [
            replace(
                part,
                name=f"{part.name}-chunk{chunk.index}",
                tasks=tuple(replace(task, chunk=chunk) for task in part.tasks),
            )
            for part in parts
            for chunk in chunks
        ]
    return [replace(part, index=index) for index, part in enumerate(parts)]


def mode_job(config: Config, survey: Survey, name: str, tasks: tuple[TaskSpec, ...]) -> JobSpec:
    """Returns the job of one mode with all its benchmarks."""
    mode = config.modes[name]
    decode = decode_spec(config, mode, survey)
    out_dir = absolute(config.out_dir, survey.cwd)
    server = survey.server
    if server is not None:
        decode, model = server_decode(decode), server_model(survey.model.path, config)
        identity = server_identity(model.path, server, decode, config.starting_seed)
        exp_name = config.exp_name or server_exp_name(config.model.name or model.path, server, decode)
    else:
        model = model_spec(config, mode, survey)
        check_context(name, decode, model.max_position_embeddings)
        identity = run_identity(decode, model, fingerprints(survey, mode), config.starting_seed)
        exp_name = config.exp_name or derived_exp_name(config, survey, mode, decode)
    if config.cluster.executor is Executor.slurm:
        stays_in_its_line("out_dir", str(out_dir))
    data_dir = str(absolute(config.data_dir, survey.cwd)) if config.data_dir else None
    return JobSpec(
        index=0,
        name=name,
        exp_name=exp_name,
        run_dir=str(out_dir / exp_name / "hf_base" / eval_dir_name(identity)),
        decode=decode,
        model=model,
        tasks=tasks,
        resources=resource_spec(config, survey, container_mounts(config, survey, out_dir, data_dir)),
        client=client_spec(config, server),
        data_dir=data_dir,
        identity=identity,
    )


def model_spec(config: Config, mode: ModeConfig, survey: Survey) -> ModelSpec:
    """Returns the weights of one mode's jobs."""
    return ModelSpec(
        path=survey.model.path,
        tokenizer=survey.tokenizer.path if survey.tokenizer else None,
        dtype=config.model.dtype,
        max_position_embeddings=context_limit(mode, survey),
        revision=config.model.revision,
        quantization=config.model.quantization,
        quantize_head=config.model.quantize_head,
        weight_storage=config.model.weight_storage,
        batch_invariant=config.model.batch_invariant,
    )


def fingerprints(survey: Survey, mode: ModeConfig) -> dict[str, str | None]:
    """Returns the fingerprints of what one mode's jobs load."""
    return {
        "weights": survey.model.fingerprint,
        "adapter": survey.adapter.fingerprint if survey.adapter and mode.lora else None,
        "tokenizer": own_tokenizer(survey),
    }


def own_tokenizer(survey: Survey) -> str | None:
    """Returns the fingerprint of a tokenizer that is not the model's; None for the model's, also if it is named."""
    tokenizer = survey.tokenizer
    return None if tokenizer is None or tokenizer.path == survey.model.path else tokenizer.fingerprint


def derived_exp_name(config: Config, survey: Survey, mode: ModeConfig, decode: DecodeSpec) -> str:
    """Returns the name of a run whose user gave none."""
    model = survey.model
    if config.model.name:
        name = label(config.model.name)
    else:
        name = model_label(model.path, Path(model.path) if model.is_folder else None, survey.cwd)
    return derived_name(name, config.max_new_tokens, decode, mode.threshold, config.model.draft_lora_only)


def check_context(name: str, decode: DecodeSpec, limit: int | None) -> None:
    """Raises ConfigError if answers may be so long that no prompt fits. The rule is the same in all modes.

    `limit` is None where config.json cannot be read here; the job then checks what its workers say.
    """
    if limit is not None and decode.max_new_tokens >= limit:
        raise ConfigError(
            f"max_new_tokens leaves room for a prompt: got {decode.max_new_tokens} with a context of {limit} tokens "
            f"in {name} (the least of max_model_len and the checkpoint's max_position_embeddings); "
            f"valid: below {limit} (--tokens), or a larger context (--max-pos-emb)"
        )


def context_limit(mode: ModeConfig, survey: Survey) -> int | None:
    """Returns the context limit of a worker: the override or config.json's, at most max_model_len.

    None means config.json's own.
    """
    limits = [mode.max_position_embeddings or survey.config_limit, mode.max_model_len]
    return min((limit for limit in limits if limit is not None), default=None)


def decode_spec(config: Config, mode: ModeConfig, survey: Survey) -> DecodeSpec:
    """Returns how one mode decodes. Where drafts are made a null threshold becomes 0, and so does a negative zero."""
    threshold = 0.0 if mode.mode in (Mode.linear_spec, Mode.auto) and mode.threshold is None else mode.threshold
    return DecodeSpec(
        mode=mode.mode,
        lora=mode.lora,
        lora_path=survey.adapter.path if survey.adapter and mode.lora else None,
        block_length=mode.block_length,
        threshold=None if threshold is None else threshold + 0.0,
        temperature=config.temperature + 0.0,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        enable_thinking=config.enable_thinking,
        max_thinking_tokens=config.max_thinking_tokens if config.enable_thinking else None,
        eos_early_stop=config.eos_early_stop,
    )


def task_specs(config: Config) -> tuple[TaskSpec, ...]:
    """Returns the benchmarks of every job, in the order of the config."""
    first = config.starting_seed
    return tuple(
        TaskSpec(
            benchmark=choice.name,
            repeats=choice.repeats,
            seeds=tuple(range(first, first + choice.repeats)),
            num_samples=load_benchmark(choice.name).num_samples,
            limit=config.limit,
        )
        for choice in config.benchmarks
    )


def client_spec(config: Config, server: ServerSpec | None) -> ClientSpec:
    """Returns how prompts are sent and scored."""
    at_once = config.client.max_concurrent_requests
    return ClientSpec(
        kind=config.client.kind,
        max_concurrent_requests=at_once if server is None else min(at_once, config.balancer.max_in_flight),
        max_num_seqs=config.balancer.max_num_seqs,
        request_timeout_s=config.client.request_timeout_s,
        num_scorers=config.client.num_scorers,
        kv_cache_gb=config.balancer.kv_cache_gb,
        start_timeout_s=config.balancer.start_timeout_s,
        journal=config.balancer.journal,
        max_failed_share=config.client.max_failed_share,
        server=server,
    )
