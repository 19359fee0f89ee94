"""Whole weights out of a run's checkpoint, held to what the run's recipe says its model is."""

from __future__ import annotations

from pathlib import Path

import torch

from mainspring import objectives
from mainspring.errors import UsageError
from mainspring.models import resolve
from mainspring.nn import Transformer
from mainspring.objectives import Vocabulary
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint.consolidate import FILE_BYTES, consolidate
from mainspring.train.checkpoint.manifest import NAME, Manifest
from mainspring.train.checkpoint.state import MODEL, model_state
from mainspring.train.run import Run
from mainspring.train.source import checkpoint_of
from mainspring.train.teacher import objective_of


def consolidate_run(
    path: str | Path, out: str | Path, *, optimizer: bool = False, file_bytes: int = FILE_BYTES
) -> Manifest:
    """Write the weights of a run's newest checkpoint, or of one that is named, whole.

    Args:
        path: run directory, a checkpoint in one, or a checkpoint anywhere.
        out: folder to make.
        optimizer: also its states.
        file_bytes: most bytes of data in a file.

    Raises:
        UsageError: `path` is none of these, or `out` exists.
        CheckpointError: the checkpoint is damaged, or is not the whole model of the run's recipe.
    """
    try:
        run, checkpoint = checkpoint_of(path)
    except UsageError:
        if not (Path(path) / NAME).is_file():
            raise
        return consolidate(path, out, optimizer=optimizer, file_bytes=file_bytes)
    expected = _expected(run, checkpoint)
    return consolidate(checkpoint, out, optimizer=optimizer, expected=expected, file_bytes=file_bytes)


def _expected(run: Run, checkpoint: Path) -> dict[str, torch.Size]:
    """Names and shapes of what the recipe trains; of an imported model, which has not been trained, of its
    network."""
    recipe = run.read_recipe()
    tokenizer = Tokenizer.load(run.tokenizer)
    with torch.device("meta"):
        network = Transformer(resolve(recipe.model, tokenizer.vocab_size))
        model: torch.nn.Module = network
        if not Manifest.read(checkpoint).run.get("imported"):
            objective = objective_of(recipe.objective, Vocabulary.of_tokenizer(tokenizer), tokenizer)
            model = objectives.assemble(objective, network)
    return {name.removeprefix(MODEL): tensor.shape for name, tensor in model_state(model).items()}
