"""Held-out loss of a run whose objective does not score text from left to right (masked language models)."""

from __future__ import annotations

from pathlib import Path

import torch

from mainspring.data.dataset import TokenData
from mainspring.errors import DataError
from mainspring.models import resolve
from mainspring.nn.transformer import Transformer
from mainspring.objectives import OwnsModules, Vocabulary, assemble
from mainspring.text.tokenizer import Tokenizer
from mainspring.train import holdout
from mainspring.train.checkpoint import load_model_state
from mainspring.train.checkpoint.manifest import Manifest
from mainspring.train.events import Evaluated
from mainspring.train.recipe import Recipe
from mainspring.train.run import Run
from mainspring.train.teacher import objective_of

ROWS = 8


def score_run(run: Run, checkpoint: Path, *, data: TokenData, seq_len: int, max_tokens: int = 0) -> Evaluated:
    """Mean loss of a run's objective on held-out text; what is masked is the same each time.

    Args:
        run: names model and objective.
        checkpoint: the checkpoint to score.
        data: with its held-out part.
        seq_len: tokens in a row.
        max_tokens: read no more than about so many; 0 reads all.

    Raises:
        DataError: nothing is held out.
    """
    recipe: Recipe = run.read_recipe()
    tokenizer = Tokenizer.load(run.tokenizer)
    objective = objective_of(recipe.objective, Vocabulary.of_tokenizer(tokenizer), tokenizer)
    with torch.device("meta"):
        model = assemble(objective, Transformer(resolve(recipe.model, tokenizer.vocab_size)))
    if isinstance(objective, OwnsModules):
        # Tables may be one under two names, and a checkpoint has each tensor once.
        model.to_empty(device="cpu").load_state_dict(load_model_state(checkpoint), strict=False)
    else:
        model.load_state_dict(load_model_state(checkpoint), assign=True)
    score = holdout.score(
        model,
        objective,
        data,
        step=Manifest.read(checkpoint).step,
        seq_len=seq_len,
        rows=ROWS,
        max_tokens=max_tokens,
        device=torch.device("cpu"),
    )
    if score is None:
        raise DataError(f"{data.directory} holds nothing out: build it with a larger --holdout or more text")
    return score
