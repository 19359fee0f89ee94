"""Optimizers and learning-rate schedules."""

from mainspring.optim.build import build, parameter_groups
from mainspring.optim.config import OptimConfig, ScheduleConfig
from mainspring.optim.flat import FlatAdam
from mainspring.optim.lamb import Lamb
from mainspring.optim.schedules import lr

__all__ = ["FlatAdam", "Lamb", "OptimConfig", "ScheduleConfig", "build", "lr", "parameter_groups"]
