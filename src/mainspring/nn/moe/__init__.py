"""Mixture of experts: gates, dispatch by sorting, experts one after another or in grouped products."""

from mainspring.nn.moe.dispatch import Dispatched, Exchange, Local, add_rows, gather_rows
from mainspring.nn.moe.experts import ExpertMaps, Experts
from mainspring.nn.moe.gate import Gate, Gated
from mainspring.nn.moe.layer import ExpertFeedForward
from mainspring.nn.moe.listed import ExpertList, list_experts
from mainspring.nn.moe.routing import Routing, balance_loss, capacity, z_loss
from mainspring.nn.moe.surgery import aggregate_experts, expert_loads, prune_experts

__all__ = [
    "Dispatched",
    "Exchange",
    "ExpertFeedForward",
    "ExpertList",
    "ExpertMaps",
    "Experts",
    "Gate",
    "Gated",
    "Local",
    "Routing",
    "add_rows",
    "aggregate_experts",
    "balance_loss",
    "capacity",
    "expert_loads",
    "gather_rows",
    "list_experts",
    "prune_experts",
    "z_loss",
]
