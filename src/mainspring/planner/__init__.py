"""What a plan costs on a machine: bytes, FLOPs, traffic, seconds, and how the batch is cut."""

from mainspring.planner.batch import Batch, split_batch
from mainspring.planner.estimate import Estimate, estimate
from mainspring.planner.machine import Machine
from mainspring.planner.parameters import ParameterCount, count_parameters
from mainspring.planner.prepare import Prepared, prepare

__all__ = [
    "Batch",
    "Estimate",
    "Machine",
    "ParameterCount",
    "Prepared",
    "count_parameters",
    "estimate",
    "prepare",
    "split_batch",
]
