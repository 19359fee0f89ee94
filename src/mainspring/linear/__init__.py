"""Linear models by stochastic gradient descent, on one worker or on several that agree with one (SymSGD)."""

from mainspring.linear.model import LinearModel, Score
from mainspring.linear.readers import read_csv, read_svmlight
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings
from mainspring.linear.train import EpochDone, fit

__all__ = [
    "EpochDone",
    "LinearModel",
    "LinearSettings",
    "Score",
    "SparseRows",
    "fit",
    "read_csv",
    "read_svmlight",
]
