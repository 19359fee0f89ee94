"""Training an ONNX graph from any framework: its recipe, its data and losses, its runs."""

from mainspring.train.graph.recipe import GraphRecipe, is_graph_recipe
from mainspring.train.graph.trainer import GraphTrainer

__all__ = ["GraphRecipe", "GraphTrainer", "is_graph_recipe"]
