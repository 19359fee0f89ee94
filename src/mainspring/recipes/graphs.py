"""Runs and models as ONNX graphs."""

from __future__ import annotations

from pathlib import Path

from mainspring.config import load_toml
from mainspring.errors import UsageError
from mainspring.infer.load import Network, Place, Shape, assemble, find, read
from mainspring.infer.onnx import export_onnx
from mainspring.infer.onnx.quantize import quantize_file
from mainspring.models import FAMILIES, resolve
from mainspring.models.exchange import import_model
from mainspring.models.onnx import read_onnx, write_onnx
from mainspring.objectives import Vocabulary, network_state
from mainspring.objectives import build as build_objective
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.checkpoint import latest, load_model_state
from mainspring.train.graph import GraphRecipe, is_graph_recipe
from mainspring.train.run import Run


def export_graph(path: str | Path, to: str | Path, *, int8: bool = False) -> tuple[Path, ...]:
    """Write a run's newest checkpoint, a checkpoint, or a model in a folder as ONNX, its tokenizer beside it.

    Args:
        path: what `infer.Engine.load` takes; of a run that trained a graph, that graph is written.
        to: folder to write.
        int8: store matrices in 8 bits (QDQ).

    Returns:
        The files.

    Raises:
        UsageError: nothing loadable is at `path`, or the run has no checkpoint yet.
    """
    for folder in (Path(path), Path(path).resolve().parent.parent):
        if is_graph_recipe(folder):
            return (_trained_graph(Run(folder), Path(path), Path(to), int8),)
    place = find(path)
    network, causal = _network(place)
    files = export_onnx(network.float(), to, causal=causal, int8=int8)
    Tokenizer.load(place.directory).save(Path(to) / "tokenizer.json")
    return files


def _network(place: Place) -> tuple[Network, bool]:
    """What is at a place, with its heads of pretraining, and whether it continues text."""
    if place.checkpoint is not None:
        recipe = Run(place.directory).read_recipe()
        tokenizer = Tokenizer.load(place.directory)
        config = resolve(recipe.model, tokenizer.vocab_size)
        objective = build_objective(recipe.objective, Vocabulary.of_tokenizer(tokenizer))
        state = network_state(objective, load_model_state(place.checkpoint))
        return assemble(Shape(config=config), state), FAMILIES[recipe.model.family].causal
    if place.kind == "model":
        model = import_model(place.directory)
        return assemble(Shape(config=model.config), model.state), FAMILIES[model.family].causal
    return assemble(*read(place)), False


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
