"""batching: many requests written side by side, each as if it were alone."""

from mainspring.infer.batching.request import DeadlineError, News, Request
from mainspring.infer.batching.scheduler import Batcher
from mainspring.infer.batching.settings import BatchSettings
from mainspring.infer.batching.spread import SpreadBatcher, follow
from mainspring.infer.batching.stats import BatchStats

__all__ = [
    "BatchSettings",
    "BatchStats",
    "Batcher",
    "DeadlineError",
    "News",
    "Request",
    "SpreadBatcher",
    "follow",
]
