"""Find what a path is - a run, a checkpoint, an exported model - and load its model and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mainspring.errors import UsageError, WeightsError
from mainspring.infer.layout import GENERATING, Layout
from mainspring.infer.layout import layout_of as prompt_layout
from mainspring.infer.written import Written, kept, published, written_by
from mainspring.models import FAMILIES, resolve
from mainspring.models.exchange import LOOKED_FOR, import_model, layout_of
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer
from mainspring.objectives import CausalConfig, Vocabulary, build, network_state
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import latest, load_model_state
from mainspring.train.run import Run

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions by name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an engine is made of."""

    model: Transformer
    tokenizer: Tokenizer
    name: str
    """Name of the run or directory."""
    layout: Layout | None = None
    """How it reads prompts; None: it continues them."""


def load(
    path: str | Path, device: str | torch.device, dtype: Literal["fp32", "bf16"], direction: str | None = None
) -> Loaded:
    """Load a run directory (its newest checkpoint), a checkpoint inside one, or a folder with a model in any
    layout that `models.exchange` reads (Hugging Face, Megatron, our own names).

    Args:
        path: where it is.
        device: where to put it.
        dtype: precision to put it in.
        direction: languages of source and target, by the name of the pairs that it was trained on, where it
            is told them and there are several.

    Raises:
        UsageError: nothing loadable is there, or it does not generate text, or the device is not there, or
            there is no such direction.
    """
    path = Path(path).resolve()
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: should be one of {', '.join(DTYPES)}")
    place = _device(device)
    if (path / "recipe.toml").is_file():
        return _run(path, None, place, DTYPES[dtype], direction)
    # A checkpoint lies in the folder "checkpoints" of its run.
    if path.is_dir() and (path.parent.parent / "recipe.toml").is_file() and path.parent.name == "checkpoints":
        return _run(path.parent.parent, path, place, DTYPES[dtype], direction)
    if layout_of(path):
        return _exported(path, place, DTYPES[dtype], direction)
    found = (
        "it does not exist" if not path.exists() else "it is a file" if path.is_file() else "none is there"
    )
    raise UsageError(
        f"{path}: no model can be loaded from here. Looked for recipe.toml (a run directory), for a "
        f"checkpoint (a run's checkpoints/step-...), and for {LOOKED_FOR}; {found}"
    )


def _run(
    directory: Path, checkpoint: Path | None, device: torch.device, dtype: torch.dtype, direction: str | None
) -> Loaded:
    run = Run(directory)
    recipe = run.read_recipe()
    tokenizer = Tokenizer.load(run.dir)
    config = resolve(recipe.model, tokenizer.vocab_size)
    written = written_by(recipe, config, directory)
    if not written.writes:
        raise UsageError(
            f"{directory}: trained with objective {recipe.objective.kind!r}, which does not learn to "
            f"write text; generation needs a model trained with one of {', '.join(GENERATING)}"
        )
    checkpoint = checkpoint or latest(run.checkpoints)
    if checkpoint is None:
        raise UsageError(
            f"{directory}: the run has no complete checkpoint yet; looked for step-... in {run.checkpoints}"
        )
    layout = prompt_layout(written.objective, tokenizer, written.languages(direction))
    objective = build(recipe.objective, Vocabulary.of_tokenizer(tokenizer))
    state = network_state(objective, load_model_state(checkpoint))
    return Loaded(_model(config, state, device, dtype), tokenizer, directory.name, layout)


def _exported(directory: Path, device: torch.device, dtype: torch.dtype, direction: str | None) -> Loaded:
    imported = import_model(directory)
    written = kept(directory) or published(imported.family)
    if written is None and FAMILIES[imported.family].causal:
        written = Written(CausalConfig())
    if written is None or not written.writes:
        causal = sorted(name for name, family in FAMILIES.items() if family.causal or published(name))
        raise UsageError(
            f"{directory}: a {imported.family} does not continue text; generation needs a model that writes "
            f"({', '.join(causal)})"
        )
    tokenizer = Tokenizer.load(directory)
    layout = prompt_layout(written.objective, tokenizer, written.languages(direction))
    return Loaded(_model(imported.config, imported.state, device, dtype), tokenizer, directory.name, layout)


def _model(
    config: TransformerConfig, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config)
    try:
        model.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise WeightsError(f"the weights do not fit the recipe's model: {error}") from error
    return model.to(device=device, dtype=dtype).requires_grad_(False)


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {str(device)!r} cannot be used here: {reason}") from error
