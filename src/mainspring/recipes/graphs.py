"""Runs as ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import torch

from mainspring.config import load_toml
from mainspring.errors import UsageError
from mainspring.infer.onnx import export_onnx
from mainspring.infer.onnx.quantize import quantize_file
from mainspring.models import FAMILIES, resolve
from mainspring.models.onnx import read_onnx, write_onnx
from mainspring.nn import Transformer
from mainspring.objectives import Vocabulary, network_state
from mainspring.objectives import build as build_objective
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import latest, load_model_state
from mainspring.train.graph import GraphRecipe, is_graph_recipe
from mainspring.train.run import Run
from mainspring.train.source import checkpoint_of


def export_graph(path: str | Path, to: str | Path, *, int8: bool = False) -> tuple[Path, ...]:
    """Write a run's newest checkpoint, or one that is named, as ONNX, with its tokenizer beside it.

    Args:
        path: run directory, or a checkpoint in one; of a run that trained a graph, that graph is written.
        to: folder to write.
        int8: store matrices in 8 bits (QDQ).

    Returns:
        The files.

    Raises:
        UsageError: `path` is no run and no checkpoint of one, or the run has no checkpoint yet.
    """
    for folder in (Path(path), Path(path).resolve().parent.parent):
        if is_graph_recipe(folder):
            return (_trained_graph(Run(folder), Path(path), Path(to), int8),)
    run, checkpoint = checkpoint_of(path)
    recipe = run.read_recipe()
    tokenizer = Tokenizer.load(run.tokenizer)
    config = resolve(recipe.model, tokenizer.vocab_size)
    objective = build_objective(recipe.objective, Vocabulary.of_tokenizer(tokenizer))
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(network_state(objective, load_model_state(checkpoint)), assign=True)
    causal = FAMILIES[recipe.model.family].causal
    files = export_onnx(model.float(), to, causal=causal, int8=int8)
    tokenizer.save(Path(to) / "tokenizer.json")
    return files


def _trained_graph(run: Run, named: Path, to: Path, int8: bool) -> Path:
    recipe = load_toml(GraphRecipe, run.recipe)
    checkpoint = named if named != run.dir else latest(run.checkpoints)
    if checkpoint is None:
        raise UsageError(f"{run.dir}: the run has no complete checkpoint yet; train it first")
    wanted = None if recipe.loss.output is None else [recipe.loss.output]
    graph = read_onnx(
        recipe.graph.path, outputs=wanted, freeze=recipe.graph.freeze, blocks=recipe.graph.blocks
    )
    file = write_onnx(recipe.graph.path, graph, to / "model.onnx", load_model_state(checkpoint))
    if int8:
        quantize_file(file)
    return file
