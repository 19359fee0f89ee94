"""The network of a recipe, measured part by part on this machine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.data.batch import causal_batch
from mainspring.models import resolve
from mainspring.nn import Transformer, initialize
from mainspring.planner.pipedream import Chain, profile
from mainspring.recipes.forecast import vocabulary
from mainspring.train.recipe import Recipe


def profile_recipe(recipe: Recipe, *, rows: int = 1, minibatches: int = 20, threads: int = 1) -> Chain:
    """Measure the blocks of a recipe's network, in fp32, on made-up tokens and a cross entropy over all.

    Args:
        recipe: its model and data.seq_len count.
        rows: of a minibatch.
        minibatches: over how many the medians go.
        threads: compute threads, as a rank will have.
    """
    config = resolve(recipe.model, vocabulary(recipe)[0])
    model = initialize(Transformer(config), recipe.train.seed)
    draw = torch.Generator().manual_seed(0)
    batch = causal_batch(torch.randint(0, config.vocab_size, (rows, recipe.data.seq_len), generator=draw))
    source = batch if config.is_encoder_decoder else None

    def loss() -> Tensor:
        logits: Tensor = model(batch, source=source).logits
        return F.cross_entropy(logits.flatten(0, -2).float(), batch.ids.flatten())

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return profile(model, loss, minibatches=minibatches, name=recipe.name, rows=rows)
    finally:
        torch.set_num_threads(before)
