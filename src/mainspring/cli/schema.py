"""`mainspring schema`: the JSON schema of a recipe, for editors and other programs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mainspring.cli.console import write_json


class Subject(StrEnum):
    """What a schema can be of."""

    recipe = "recipe"
    data = "data"
    model = "model"
    graph = "graph"


def schema(
    of: Annotated[
        Subject,
        typer.Argument(
            help="recipe: a run; graph: a run that trains an ONNX graph; data: what `data build` makes; "
            "model: the transformer's shape."
        ),
    ] = Subject.recipe,
) -> None:
    """Write the JSON schema of a recipe (or of another kind of configuration)."""
    from mainspring.config import Section, json_schema
    from mainspring.data.config import BuildConfig
    from mainspring.nn.config import TransformerConfig
    from mainspring.train.graph.recipe import GraphRecipe
    from mainspring.train.recipe import Recipe

    sections: dict[Subject, type[Section]] = {
        Subject.recipe: Recipe,
        Subject.data: BuildConfig,
        Subject.model: TransformerConfig,
        Subject.graph: GraphRecipe,
    }
    write_json(json_schema(sections[of]))
