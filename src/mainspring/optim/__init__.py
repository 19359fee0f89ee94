"""Optimizers and learning-rate schedules."""

from mainspring.optim.build import build, parameter_groups
from mainspring.optim.config import OptimConfig, ScheduleConfig
from mainspring.optim.flat import FlatAdam
from mainspring.optim.schedules import lr

__all__ = ["FlatAdam", "OptimConfig", "ScheduleConfig", "build", "lr", "parameter_groups"]
