"""Making trained models small: narrow formats with calibration, sensitivity of layers, pruning.

Distillation is an objective (`mainspring.objectives.Distill`), and training for narrow formats, the mixture
of quantisation among it, a section of the recipe (`mainspring.train.narrow`): the trainer does both.
"""

from mainspring.compress.gptq import gptq, round_to_nearest
from mainspring.compress.importance import Importance, importance
from mainspring.compress.linears import linears
from mainspring.compress.measure import Measure
from mainspring.compress.post_training import Change, Method, Narrowed, formats_for, quantize
from mainspring.compress.prune import drop_layers, drop_parts, spread_layers
from mainspring.compress.sensitivity import Choice, Option, choose, choose_greedily, pareto, sensitivities
from mainspring.compress.smooth import smooth_layer
from mainspring.compress.subject import Subject, open_subject, texts_of

__all__ = [
    "Change",
    "Choice",
    "Importance",
    "Measure",
    "Method",
    "Narrowed",
    "Option",
    "Subject",
    "choose",
    "choose_greedily",
    "drop_layers",
    "drop_parts",
    "formats_for",
    "gptq",
    "importance",
    "linears",
    "open_subject",
    "pareto",
    "quantize",
    "round_to_nearest",
    "sensitivities",
    "smooth_layer",
    "spread_layers",
    "texts_of",
]
