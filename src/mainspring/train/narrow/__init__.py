"""Training for narrow number formats: a mixture of bits that falls as training goes on, or one format."""

from mainspring.train.narrow.config import FormatTraining, MixtureTraining, NarrowConfig
from mainspring.train.narrow.curvature import largest_eigenvalues
from mainspring.train.narrow.schedule import LayerBits, advance, factor_of
from mainspring.train.narrow.training import Narrow

__all__ = [
    "FormatTraining",
    "LayerBits",
    "MixtureTraining",
    "Narrow",
    "NarrowConfig",
    "advance",
    "factor_of",
    "largest_eigenvalues",
]
