"""Plan an asynchronous pipeline: measure a model's parts, cut them into stages, draw both."""

from mainspring.planner.pipedream.chain import Chain, Node
from mainspring.planner.pipedream.partition import Cut, Level, Part, partition

__all__ = ["Chain", "Cut", "Level", "Node", "Part", "partition"]
