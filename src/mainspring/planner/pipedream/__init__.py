"""Plan an asynchronous pipeline: measure a model's parts, cut them into stages, draw both."""

from mainspring.planner.pipedream.chain import Chain, Node
from mainspring.planner.pipedream.partition import Cut, Level, Part, partition
from mainspring.planner.pipedream.pictures import draw_profile, draw_schedule
from mainspring.planner.pipedream.profiler import profile

__all__ = ["Chain", "Cut", "Level", "Node", "Part", "draw_profile", "draw_schedule", "partition", "profile"]
