"""Optimizers and learning-rate schedules."""

from mainspring.optim.adasum import AdasumOptimizer
from mainspring.optim.build import build, check_communication, parameter_groups
from mainspring.optim.config import OptimConfig, ScheduleConfig
from mainspring.optim.flat import FlatAdam
from mainspring.optim.lamb import Lamb
from mainspring.optim.onebit import OneBitAdam, OneBitLamb, Settled, ZeroOneAdam
from mainspring.optim.replicas import Replicas
from mainspring.optim.schedules import lr

__all__ = [
    "AdasumOptimizer",
    "FlatAdam",
    "Lamb",
    "OneBitAdam",
    "OneBitLamb",
    "OptimConfig",
    "Replicas",
    "ScheduleConfig",
    "Settled",
    "ZeroOneAdam",
    "build",
    "check_communication",
    "lr",
    "parameter_groups",
]
