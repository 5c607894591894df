"""What a request got, once the engine is done with it."""

from __future__ import annotations

from trimode.core.protocol import Cost, Generation
from trimode.workers.engine.scheduler import Sequence
from trimode.workers.text import Text


def build_generation(sequence: Sequence, text: Text) -> Generation:
    """Returns the result of a request that ended without an error."""
    state = sequence.state
    tokens = state.tokens()
    shown = text.decode(tokens)
    if shown is not None and state.params.stop:
        shown = text.cut_at_stop(shown, state.params.stop)
    arrived, ended = sequence.arrived, sequence.ended or sequence.arrived
    rated = state.params.prompt_logprobs
    return Generation(
        request_id=sequence.request_id,
        token_ids=tokens,
        text=shown,
        finish_reason=state.finish_reason or "length",
        cost=Cost(
            prompt_tokens=len(state.prompt_ids),
            completion_tokens=len(tokens),
            forwards=dict(state.forwards),
            forwards_saved=state.forwards_saved,
            nfe=state.nfe(state.forwards),
            acceptance_lengths=state.acceptance_lengths,
            widths={str(width): count for width, count in state.widths.items()},
            fixed_tokens={str(width): round(tokens, 1) for width, tokens in state.fixed_tokens.items()},
            continuations=state.continuations,
            queue_s=(sequence.started or ended) - arrived,
            first_token_s=(sequence.first_token or ended) - arrived,
            total_s=ended - arrived,
        ),
        trace=state.trace,
        logprobs=state.logprobs[: len(tokens)] if state.params.logprobs else None,
        top_logprobs=state.top_logprobs[: len(tokens)] if state.params.num_top else None,
        prompt_token_ids=None if rated is None else state.prompt_ids,
        prompt_logprobs=None if rated is None else state.prompt_logprobs,
        prompt_top_logprobs=state.prompt_top_logprobs if rated else None,
    )
