"""A model as a chain of measured nodes: what the partitioner cuts. Kept as JSON, and as the text graph of
PipeDream's own profiler.

The text form has a line a node, `node<i> -- description -- forward_compute_time=.., backward_compute_time=..,
activation_size=.., parameter_size=..[ -- stage_id=k]` (times in ms, sizes in bytes), then a line an edge,
`<tab>node<i> -- node<j>`. Only chains are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from mainspring.config import Section, parse
from mainspring.errors import ConfigError, DataError

_NUMBER = r"([^,\s]+)"
_NODE = re.compile(
    r"(?P<name>\S+) -- (?P<description>.*?) -- "
    rf"forward_compute_time={_NUMBER}, backward_compute_time={_NUMBER}, "
    r"activation_size=(\[[^\]]*\]|[^,\s]+), "
    rf"parameter_size={_NUMBER}(?: -- stage_id=(\d+))?$"
)


class Node(Section):
    """A part of the model that is not cut."""

    name: str
    """What it is called."""
    forward: float = Field(ge=0)
    """Milliseconds of its forward pass on a minibatch."""
    backward: float = Field(ge=0)
    """Milliseconds of its backward pass."""
    activation_bytes: int = Field(ge=0)
    """What it hands to the next node, and gets a gradient of."""
    parameter_bytes: int = Field(ge=0)
    """Its weights."""

    @property
    def seconds(self) -> float:
        """Both passes."""
        return (self.forward + self.backward) / 1e3


class Chain(Section):
    """Nodes in the order in which a minibatch passes them."""

    format: Literal["mainspring-profile/1"] = "mainspring-profile/1"
    model: str = ""
    """What was measured."""
    device: str = ""
    """On what."""
    rows: int = Field(1, ge=1)
    """Samples of the minibatch."""
    minibatches: int = Field(0, ge=0)
    """Minibatches over which times are medians; 0 where that is not known."""
    nodes: tuple[Node, ...] = Field(min_length=1)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read JSON that `save` wrote, or a text graph.

        Raises:
            DataError: the file is missing or is neither.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: no profile can be read: {error}") from error
        if not text.lstrip().startswith("{"):
            return cls.from_graph(text, str(path))
        try:
            values: Any = json.loads(text)
            return parse(cls, values)
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path}: no profile: {error}") from error

    def to_graph(self, stages: Mapping[int, int] | None = None) -> str:
        """The text graph. stages: of each node the number of its stage, where it is cut."""
        lines = []
        for i, node in enumerate(self.nodes):
            line = (
                f"node{i + 1} -- {node.name} -- forward_compute_time={node.forward:.3f}, "
                f"backward_compute_time={node.backward:.3f}, activation_size={node.activation_bytes}, "
                f"parameter_size={node.parameter_bytes:.3f}"
            )
            lines.append(line if stages is None else f"{line} -- stage_id={stages[i]}")
        lines += [f"\tnode{i} -- node{i + 1}" for i in range(1, len(self.nodes))]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_graph(cls, text: str, source: str = "the graph") -> Self:
        """Read a text graph; where nodes carry stages, these are left out.

        Raises:
            DataError: a line is neither a node nor an edge, or the graph is no chain; names the line or node.
        """
        nodes: dict[str, Node] = {}
        after: dict[str, str] = {}
        before: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("\t"):
                ends = [end.strip() for end in line.split(" -- ")]
                if len(ends) != 2 or not set(ends) <= nodes.keys():
                    raise DataError(f"{source}, line {number}: no edge between two nodes above: {line!r}")
                if ends[0] in after or ends[1] in before:
                    branching = ends[0] if ends[0] in after else ends[1]
                    raise DataError(
                        f"{source}: {branching} has several neighbours on one side, and only chains are cut; "
                        "join parallel branches into one node first"
                    )
                after[ends[0]], before[ends[1]] = ends[1], ends[0]
            elif line.strip():
                name, node = _node(line, f"{source}, line {number}")
                nodes[name] = node
        firsts = [name for name in nodes if name not in before]
        ordered: list[Node] = []
        at = firsts[0] if firsts else None
        while at is not None:
            ordered.append(nodes[at])
            at = after.get(at)
        if len(ordered) != len(nodes) or not nodes:
            raise DataError(
                f"{source}: {len(nodes)} nodes and {len(after)} edges are no chain: {len(firsts)} nodes have "
                "nothing before them"
            )
        return cls(nodes=tuple(ordered))


def _node(line: str, where: str) -> tuple[str, Node]:
    found = _NODE.match(line)
    if found is None:
        raise DataError(f"{where}: no node: {line!r}")
    _, description, forward, backward, activations, parameters, _ = found.groups()
    try:
        sizes = [float(size) for size in activations.strip("[]").split(";")]
        node = Node(
            name=description,
            forward=float(forward),
            backward=float(backward),
            activation_bytes=round(sum(sizes)),
            parameter_bytes=round(float(parameters)),
        )
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return found["name"], node
