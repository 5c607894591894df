"""The contract between pipeline, balancer and workers: modes, request parameters, results and worker settings.

Standard library only, so that a login node can import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias


class Mode(StrEnum):
    """How one set of weights decodes."""

    ar = "ar"
    """Left to right, one token per forward."""
    dlm = "dlm"
    """Block diffusion: a block of masks, positions committed when confident."""
    linear_spec = "linear_spec"
    """The model drafts a block by diffusion and verifies it causally."""
    auto = "auto"
    """The tokens of ar, by cycles of linear_spec whose width follows the load, or by steps of ar."""
    AR = "ar"
    DLM = "dlm"
    LINEAR_SPEC = "linear_spec"
    """Aliases of three of them, for overrides such as `modes.ar.mode=AR`: earlier releases took only these names."""


class WeightStorage(StrEnum):
    """How plain bfloat16 weights are held in memory. The numbers are the same in either way."""

    auto = "auto"
    """packed12 where it is the faster one, else bf16."""
    bf16 = "bf16"
    """16 bits a weight."""
    packed12 = "packed12"
    """12 bits a weight, without loss; on CPUs with AVX512-BF16. Matrices that do not fit stay in bf16."""


class Quantization(StrEnum):
    """How the weights of the layers are stored. The other weights stay plain, the head unless it is asked for."""

    none = "none"
    """As the checkpoint has them."""
    fp8 = "fp8"
    """8-bit floats (e4m3), one scale per output; the rows of a product are quantised to e4m3 as well."""
    w8a16 = "w8a16"
    """8-bit integers, one scale per output; rows stay as they are."""
    w4a16 = "w4a16"
    """4-bit integers, a scale and a zero per group of inputs."""


NEVER_SCORED = "the scorer cannot judge this row"
"""Begins the `scoring_error` of a row that no other try can change: its fields do not fit the scorer."""
Row = dict[str, Any]
"""One sample of a benchmark as JSON: the data's fields, and once answered the reply's and the verdict's.

Declared here because data, scoring and the run folder all handle rows and import only core in common. The values are
Any because the keys belong to each benchmark and its scorer.
"""

FORWARD_KINDS = ("prefill", "decode", "denoise", "cache", "draft", "verify")
"""Every model call of a request is exactly one of these."""


@dataclass(frozen=True, slots=True)
class ModeDefaults:
    """Decoding defaults of one mode, as the public reference's `eval.sh` sets them."""

    block_length: int
    threshold: float | None


MODE_DEFAULTS: dict[Mode, ModeDefaults] = {
    Mode.ar: ModeDefaults(block_length=1, threshold=None),
    Mode.dlm: ModeDefaults(block_length=8, threshold=0.9),
    Mode.linear_spec: ModeDefaults(block_length=32, threshold=0.0),
    Mode.auto: ModeDefaults(block_length=32, threshold=0.0),
}

DEFAULT_MAX_NEW_TOKENS = 8192
"""Used when a request names none, cut to what is left of the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeParams:
    """What one request asks of the decoder. Built by `workers.params.parse_params`, which checks every field."""

    mode: str
    """A name in workers.decode.registry; the shipped ones are in Mode."""
    max_new_tokens: int
    """Upper bound on generated tokens; the output never exceeds it. 0 = the prompt is read and nothing else."""
    block_length: int
    """Tokens per diffusion or draft block (>= 1; 1 for ar); in auto the most."""
    threshold: float | None
    """Commit confidence in [0, 1]; None = fixed quota in dlm; 0 = one draft pass of linear_spec; ignored in ar."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Acts on tokens of the prompt and of the output; 1 = off."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the output holds."""
    frequency_penalty: float = 0.0
    """Taken off the logit of a token, once for each time that the output holds it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number that is added to its logit), each id once."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    max_thinking_tokens: int | None = None
    """Thinking budget; acts only with an `end_think_token_id`."""
    end_think_token_id: int | None = None
    """Given by the row, or filled in from the tokenizer when `enable_thinking` is on."""
    lora: bool = False
    """Adapter on the drafter; changes nothing in ar and dlm."""
    acceptance: str = "rejection"
    """linear_spec at temperature > 0: `rejection` (speculative sampling) or `equality` (the reference's rule). The
    other modes ignore it."""
    logprobs: bool = False
    top_logprobs: int = 0
    """Alternatives reported for each generated token. Acts only with `logprobs`."""
    prompt_logprobs: int | None = None
    """Alternatives reported for each token of the prompt beside its own log-probability; None = neither is reported.
    The prompt is then computed as a whole, whatever the prefix cache holds."""

    @property
    def num_top(self) -> int:
        """Alternatives reported for each generated token."""
        return self.top_logprobs if self.logprobs else 0

    @property
    def rates_more(self) -> bool:
        """True if more is rated than the generated tokens: alternatives to them, or the prompt."""
        return self.num_top > 0 or self.prompt_logprobs is not None

    @property
    def sees_past(self) -> bool:
        """True if the logits depend on which tokens came before, beside what the model makes of them."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def changes_logits(self) -> bool:
        """True if a penalty or a bias acts on the logits."""
        return self.sees_past or bool(self.logit_bias)


DECODE_FIELDS = frozenset(item.name for item in dataclasses.fields(DecodeParams)) | {"enable_thinking"}
"""Names of the request fields that say how to decode. All are fields of DecodeParams except `enable_thinking`, which
changes the prompt and switches the thinking budget on."""
DECODE_DEFAULTS: Mapping[str, object] = {
    item.name: item.default for item in dataclasses.fields(DecodeParams) if item.default is not dataclasses.MISSING
}
"""Values of the optional fields of DecodeParams when a request does not give them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one sample cost. In JSON its fields stand beside the other fields of the record that holds it."""

    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, the end token included."""
    forwards: dict[str, int] = field(default_factory=dict)
    """Model calls by kind, keys = FORWARD_KINDS: what the request needs alone, whatever the prefix cache holds."""
    forwards_saved: int = 0
    """Of the prefill calls in `forwards`, those that did not run because the prefix cache held their tokens."""
    nfe: int | None = 0
    """The reference's number, derived from `forwards` by one rule per mode (DecodeState.nfe); None if a server that is
    not this project's does not count it."""
    acceptance_lengths: list[int] = field(default_factory=list)
    """linear_spec and auto: tokens emitted per verify, none past an end token or the limit; else empty."""
    widths: dict[str, int] = field(default_factory=dict)
    """auto: cycles by their width, narrow ones first; `1` are steps of ar. Else empty."""
    fixed_tokens: dict[str, float] = field(default_factory=dict)
    """auto: tokens that the same time would have given if all requests of the mode had always had one width, by that
    width; an estimate, of the last worker's part. Else empty."""
    continuations: int = 0
    """How often another worker went on with the sample after the end of the one before."""
    queue_s: float = 0.0
    """Seconds from arrival to the first forward."""
    first_token_s: float = 0.0
    """Seconds from arrival to the first committed token."""
    total_s: float = 0.0
    """Seconds from arrival to the end."""

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a dict, those in OPTIONAL_COSTS only if they hold something; lists are not copied."""
        values = {name: getattr(self, name) for name in COST_FIELDS}
        return {name: value for name, value in values.items() if value or name not in OPTIONAL_COSTS}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Cost:
        """Reads the cost out of a flat record. Raises TypeError if it lacks the token counts."""
        return cls(**{name: value[name] for name in COST_FIELDS if name in value})  # type: ignore[arg-type]


Top: TypeAlias = Sequence[tuple[int, float]]
"""Token ids with their log-probabilities, the most probable first."""


COST_FIELDS = tuple(item.name for item in dataclasses.fields(Cost))
OPTIONAL_COSTS = ("continuations", "widths", "fixed_tokens")
"""Fields that a record holds only if there is something in them."""
NO_COST = Cost(prompt_tokens=0, completion_tokens=0)
"""Of a sample that never reached a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one request got, and what it cost."""

    request_id: str
    token_ids: list[int]
    """Generated ids; the end token is kept."""
    text: str | None
    """Decoded without special tokens, cut at a stop string; None when the checkpoint has no tokenizer."""
    finish_reason: str
    """`stop` (end token, stop string or stop id) or `length`."""
    cost: Cost
    trace: list[object] | None
    """dlm: commits per pass, per block; linear_spec: [draft passes, accepted] per cycle; auto: its width first."""
    logprobs: list[float] | None = None
    """Log-probability of each generated token, from the pass that committed it, of a forced one from the
    causal pass; None unless asked for."""
    top_logprobs: list[Top] | None = None
    """The most probable tokens at the place of each generated one, from the same pass. None unless asked for."""
    prompt_token_ids: list[int] | None = None
    """None unless the log-probabilities of the prompt are asked for; so are the next two."""
    prompt_logprobs: list[float] | None = None
    """Log-probability of each token of the prompt after those before it; the first token has none."""
    prompt_top_logprobs: list[Top] | None = None
    """The most probable tokens at the place of each of them."""

    def to_json(self) -> dict[str, object]:
        """Returns a flat dict, ready for json: the fields of the cost stand beside the others."""
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "cost"}
        return own | self.cost.to_json()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Generation:
        """Returns what `to_json` wrote."""
        own = {item.name: value[item.name] for item in dataclasses.fields(cls) if item.name != "cost"}
        return cls(**own, cost=Cost.from_json(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything one worker process needs to start. One worker holds one model on one device."""

    model: str
    """Checkpoint folder in the released layout, or a hub id already in the local hub cache."""
    revision: str | None = None
    """Commit, branch or tag of a hub id; None = main. With the engine hf it is what the remote code is pinned to."""
    lora: str | None = None
    """Adapter folder (peft layout), or None."""
    tokenizer: str | None = None
    """Tokenizer folder; None = the checkpoint's own."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N. auto = cuda when visible, else cpu."""
    dtype: str = "bfloat16"
    """bfloat16 | float32."""
    quantization: str = "none"
    """none | fp8 | w8a16 | w4a16, for the layers; none for a checkpoint that is quantised."""
    quantize_head: bool = False
    """True to quantise the head too."""
    weight_storage: str = "auto"
    """auto | bf16 | packed12: how plain bfloat16 weights are held in memory."""
    batch_invariant: bool = False
    """True for results that do not depend on the other requests of a batch, where a slower kernel can promise it."""
    max_num_seqs: int = 32
    """Requests decoded together."""
    kv_cache_gb: float | None = None
    """KV cache budget in GiB; None = a share of free memory."""
    max_position_embeddings: int | None = None
    """Overrides config.json's context limit."""
    num_threads: int | None = None
    """Torch CPU threads; None = those of OMP_NUM_THREADS, else one for a small model and all cores for others."""
    served_model_name: str | None = None
    """Name in /v1/models; None = the hub id or the folder's name."""
    journal: str | None = None
    """Folder of the journals of running requests: a worker with the same folder goes on with them; None = nowhere."""
    journal_prefix: str = ""
    """Beginning of the name of the worker's file there."""

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> WorkerSettings:
        """Returns settings from parsed command-line flags of the same names.

        Flags that are no setting are left out; a setting without a flag keeps its default.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in flags.items() if name in names})
