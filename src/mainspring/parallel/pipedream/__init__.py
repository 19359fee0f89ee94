"""Pipelines that do not stop between updates: PipeDream, and the synchronous schedules beside it."""

from mainspring.parallel.pipedream.layout import Layout, Place
from mainspring.parallel.pipedream.runtime import Batches, Pipeline
from mainspring.parallel.pipedream.schedule import Op, Semantics, order, orders

__all__ = ["Batches", "Layout", "Op", "Pipeline", "Place", "Semantics", "order", "orders"]
