"""What a model is trained to do: views of a batch, and the losses on them."""

from mainspring.objectives.base import Loss, Objective, Views, labelled_loss
from mainspring.objectives.build import build
from mainspring.objectives.causal import CausalLM
from mainspring.objectives.config import CausalConfig, MaskedConfig, ObjectiveConfig, PseudoMaskedConfig
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.objectives.masked import MaskedLM, mask_row
from mainspring.objectives.pseudo_masked import PseudoMaskedLM
from mainspring.objectives.words import Vocabulary, word_starts

__all__ = [
    "CausalConfig",
    "CausalLM",
    "Loss",
    "MaskedConfig",
    "MaskedLM",
    "Objective",
    "ObjectiveConfig",
    "PseudoMaskedConfig",
    "PseudoMaskedLM",
    "Views",
    "Vocabulary",
    "build",
    "labelled_loss",
    "mask_row",
    "summed_cross_entropy",
    "word_starts",
]
