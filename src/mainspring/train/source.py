"""Weights that a run begins from: those of another run, of a checkpoint, or of an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mainspring.errors import UsageError
from mainspring.models import resolve
from mainspring.models.exchange import LOOKED_FOR, import_model, layout_of
from mainspring.nn.config import TransformerConfig
from mainspring.objectives import Vocabulary, build, network_state
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import latest, load_model_state
from mainspring.train.run import Run


class Weights(NamedTuple):
    """A network's weights, by our names."""

    path: Path
    """Where they come from."""
    config: TransformerConfig
    """The network."""
    state: dict[str, Tensor]
    """Its tensors, on the CPU."""
    tokenizer_hash: str | None
    """Of the tokenizer beside them, if there is one."""
    family: str
    """Name of the model's family."""


def checkpoint_of(path: str | Path) -> tuple[Run, Path]:
    """The run and the checkpoint that a path means: a run's newest, or the one named.

    Raises:
        UsageError: it is neither, or there is no checkpoint yet.
    """
    place = Path(path)
    if (place / "recipe.toml").is_file():
        newest = latest(Run(place).checkpoints)
        if newest is None:
            raise UsageError(
                f"{place}: the run has no complete checkpoint yet; train it first: mainspring train {place}"
            )
        return Run(place), newest
    inside = Run(place.resolve().parent.parent)
    if place.is_dir() and inside.recipe.is_file():
        return inside, place
    raise UsageError(
        f"{place}: neither a run (a directory with recipe.toml) nor a checkpoint of one "
        "(RUN/checkpoints/step-...)"
    )


def check_source(path: str | Path, field: str = "train.init_from") -> None:
    """Refuse early what `read_weights` would refuse, in the name of a recipe's field.

    Raises:
        UsageError: neither a run, a checkpoint nor an exported model is there.
    """
    if layout_of(Path(path)) is None:
        try:
            checkpoint_of(path)
        except UsageError as error:
            raise UsageError(
                f"{field}: {error}, nor a model ({LOOKED_FOR}). A model on the hub comes in with "
                f"mainspring import OWNER/NAME --to RUN, and {field} = RUN"
            ) from error


def read_weights(path: str | Path, field: str = "train.init_from") -> Weights:
    """Read the network of a run, a checkpoint or an exported model, in the name of a recipe's field.

    Raises:
        UsageError: none of them is there, or it cannot be read.
    """
    check_source(path, field)
    place = Path(path)
    if layout_of(place) is not None:
        found = import_model(place, allow_missing=True)
        beside = (place / "tokenizer.json").is_file()
        hashed = Tokenizer.load(place).hash if beside else None
        return Weights(place, found.config, found.state, hashed, found.family)
    run, checkpoint = checkpoint_of(place)
    recipe, tokenizer = run.read_recipe(), Tokenizer.load(run.tokenizer)
    objective = build(recipe.objective, Vocabulary.of_tokenizer(tokenizer))
    state = network_state(objective, load_model_state(checkpoint))
    config = resolve(recipe.model, tokenizer.vocab_size)
    return Weights(checkpoint, config, state, tokenizer.hash, recipe.model.family)
