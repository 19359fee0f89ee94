"""The recipe of a run that trains an ONNX graph."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mainspring.config import Section, read_toml
from mainspring.optim.config import OptimConfig
from mainspring.parallel.plan import Plan


class GraphConfig(Section):
    """Which graph, and what of it is trained."""

    path: str
    """The ONNX file."""
    freeze: tuple[str, ...] = ()
    """Patterns of names of weights that stay as they are: "*.bias"."""
    blocks: int = Field(32, ge=1)
    """Most blocks, more or less, that the graph is cut into; ZeRO gathers one at a time, and every stage of a
    pipeline has at least one."""


class ArrayData(Section):
    """Rows of arrays: what the graph reads, and what it should give."""

    kind: Literal["arrays"] = "arrays"
    """Arrays of one file."""
    path: str
    """A .npz, .safetensors or .csv file; each array has a row for each example."""
    inputs: dict[str, str] = {}
    """Array of each input of the graph; of a CSV file also several columns, with commas between. An input
    that is not named here has the array of its own name."""
    target: str = "target"
    """The array (or columns) that the output is compared with; class numbers for cross_entropy."""


class TokenRows(Section):
    """Rows of tokens that `mainspring data build` wrote, for graphs that read language."""

    kind: Literal["tokens"]
    """Token data."""
    path: str
    """Its directory."""
    seq_len: int = Field(ge=1)
    """Tokens in a row."""
    ids: str = "input_ids"
    """Input of the graph that takes the tokens, int64 [rows, tokens]."""
    mask: str | None = None
    """Input that takes ones of the same shape (an attention mask)."""
    positions: str | None = None
    """Input that takes 0, 1, ... in each row."""


class LossConfig(Section):
    """What is trained to be small."""

    kind: Literal["mse", "cross_entropy", "causal"]
    """mse: mean squared difference. cross_entropy: of class numbers under logits [rows, classes], or [rows,
    classes, ...]. causal: of the next token under logits [rows, tokens, vocabulary]."""
    output: str | None = None
    """Output of the graph that it is of; null where the graph has one."""
    probabilities: bool = False
    """Whether the output is softmax's already, so that its logarithm is taken (cross_entropy)."""


class GraphTraining(Section):
    """How long, how large, how exact."""

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_rows: int = Field(ge=1)
    """Rows of the global batch."""
    micro_rows: int = Field(0, ge=0)
    """Rows that a rank computes at once; 0: all of its share (of a pipeline, the share in as many parts as it
    has stages)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the computation; the weights stay as the graph has them."""
    seed: int = Field(0, ge=0)
    """Of the order of rows, and of chance in the graph."""
    checkpoint_every: int = Field(100, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=0)
    """Newest checkpoints to keep; 0: all."""
    log_every: int = Field(1, ge=1)
    """Steps between reports of progress."""
    threads: int = Field(0, ge=0)
    """Compute threads of a rank; 0 shares the machine's cores evenly among its ranks."""


class GraphRecipe(Section):
    """A run that trains an ONNX graph: which, on what, for what, how, over which ranks, for how long."""

    name: str = Field("graph", min_length=1)
    """Name of the run."""
    graph: GraphConfig
    """What is trained."""
    data: Annotated[ArrayData | TokenRows, Field(discriminator="kind")]
    """What it reads."""
    loss: LossConfig
    """What it is trained to do."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and learning-rate schedule."""
    plan: Plan = Plan()
    """Spread over ranks."""
    train: GraphTraining
    """Length, batch and records."""

    @model_validator(mode="after")
    def _spread_fits(self) -> Self:
        for axis in ("tensor", "sequence", "expert"):
            if getattr(self.plan, axis) > 1:
                raise ValueError(
                    f"plan.{axis} = {getattr(self.plan, axis)}: a graph says nothing of which of its "
                    "matrices belong together; spread it with data, zero (1 to 3), offload and pipeline"
                )
        rows, ranks = self.train.batch_rows, self.plan.data
        if rows % ranks:
            raise ValueError(
                f"train.batch_rows = {rows} does not divide among plan.data = {ranks} ranks; the "
                f"nearest that does is {max(rows // ranks, 1) * ranks}"
            )
        if self.rows_per_rank % self.micro_rows:
            raise ValueError(
                f"train.micro_rows = {self.micro_rows} does not divide the {self.rows_per_rank} rows of a "
                "rank; leave it out, or choose a divisor"
            )
        return self

    @property
    def rows_per_rank(self) -> int:
        """Rows of a data rank in a step."""
        return self.train.batch_rows // self.plan.data

    @property
    def micro_rows(self) -> int:
        """Rows that a rank computes at once."""
        if self.train.micro_rows:
            return self.train.micro_rows
        stages = self.plan.pipeline * self.plan.pipeline_chunks
        return self.rows_per_rank // stages if self.rows_per_rank % stages == 0 else self.rows_per_rank


def is_graph_recipe(path: str | Path) -> bool:
    """Whether a TOML file, or a run's directory, is of a run that trains a graph."""
    file = Path(path)
    file = file / "recipe.toml" if file.is_dir() else file
    return file.suffix == ".toml" and file.is_file() and "graph" in read_toml(file)


def identity(recipe: GraphRecipe) -> dict[str, Any]:
    """What has to stay the same for a run to be the same run: the graph, the rows and their order."""
    plain = recipe.model_dump(mode="json")
    graph = Path(recipe.graph.path)
    return {
        "graph": hashlib.sha256(graph.read_bytes()).hexdigest() if graph.is_file() else "",
        "freeze": plain["graph"]["freeze"],
        "blocks": plain["graph"]["blocks"],
        "data": {k: v for k, v in plain["data"].items() if k != "path"},
        "loss": plain["loss"],
        "train.seed": recipe.train.seed,
        "train.batch_rows": recipe.train.batch_rows,
    }
