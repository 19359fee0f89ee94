"""What cannot join a running batch, and why: such a request takes its turn and runs by itself."""

from __future__ import annotations

from mainspring.infer.layout import Layout
from mainspring.infer.options import GenerateOptions
from mainspring.infer.runner import takes_cache
from mainspring.nn.transformer import Transformer


def model_alone(model: Transformer, layout: Layout) -> str | None:
    """Why no request of a model can join; None: it batches."""
    experts = model.config.experts
    if layout.encoder or model.encoder is not None:
        return "the model has an encoder, whose outputs the slots do not hold"
    if not takes_cache(model):
        return "the model reads whole rows (a convolution, a mask decoder or a head with context): no cache"
    if experts is not None and experts.eval_capacity_factor is not None:
        return (
            f"the model's experts have room for a share of a batch's tokens (eval_capacity_factor = "
            f"{experts.eval_capacity_factor}): a row's text would depend on its neighbours"
        )
    return None


def request_alone(options: GenerateOptions) -> str | None:
    """Why a request cannot join, whatever the model; None: it can."""
    if options.num_beams > 1:
        return f"num_beams = {options.num_beams}: beams are reordered together"
    if options.echo and options.logprobs is not None:
        return "echo with logprobs asks for the logits of the whole prompt at once"
    if options.draft is not None:
        return f"draft = {options.draft.name!r}: a draft model writes for one request at a time"
    if not options.use_cache:
        return "use_cache = False computes whole rows"
    return None
