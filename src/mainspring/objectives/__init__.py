"""What a model is trained to do: views of a batch, and the losses on them."""

from mainspring.objectives.auxiliary import with_auxiliary
from mainspring.objectives.base import (
    ComparesTexts,
    Evolves,
    Loss,
    Objective,
    OwnsModules,
    SeveralPasses,
    Views,
    assemble,
    labelled_loss,
    network_state,
    passes,
)
from mainspring.objectives.build import build
from mainspring.objectives.causal import CausalLM
from mainspring.objectives.config import (
    CausalConfig,
    ContrastConfig,
    DenoisingConfig,
    DistillConfig,
    MaskedConfig,
    MixedConfig,
    ObjectiveConfig,
    PrefixConfig,
    PseudoMaskedConfig,
    ReplacedConfig,
    Seq2SeqConfig,
    StudentConfig,
    TranslateConfig,
    TranslationConfig,
    UnicoderConfig,
    UnilmConfig,
)
from mainspring.objectives.contrast import CrossLingualContrast
from mainspring.objectives.cross_entropy import smoothed_cross_entropy, summed_cross_entropy
from mainspring.objectives.distill import Distill, Teacher
from mainspring.objectives.encoder_decoder import Denoising, Translate
from mainspring.objectives.generator import GeneratorAndDiscriminator
from mainspring.objectives.masked import MaskedLM, mask_row
from mainspring.objectives.mixed import Mixed
from mainspring.objectives.momentum import MomentumContrast
from mainspring.objectives.prefix import PrefixLM
from mainspring.objectives.pseudo_masked import PseudoMaskedLM
from mainspring.objectives.replaced import ReplacedTokens
from mainspring.objectives.seq2seq import Seq2Seq
from mainspring.objectives.students import MixtureOfStudents
from mainspring.objectives.teaching import TaughtNetwork
from mainspring.objectives.translation import TranslationLM
from mainspring.objectives.unicoder import Unicoder
from mainspring.objectives.unilm import UnilmMixture
from mainspring.objectives.words import Vocabulary, word_starts

__all__ = [
    "CausalConfig",
    "CausalLM",
    "ComparesTexts",
    "ContrastConfig",
    "CrossLingualContrast",
    "Denoising",
    "DenoisingConfig",
    "Distill",
    "DistillConfig",
    "Evolves",
    "GeneratorAndDiscriminator",
    "Loss",
    "MaskedConfig",
    "MaskedLM",
    "Mixed",
    "MixedConfig",
    "MixtureOfStudents",
    "MomentumContrast",
    "Objective",
    "ObjectiveConfig",
    "OwnsModules",
    "PrefixConfig",
    "PrefixLM",
    "PseudoMaskedConfig",
    "PseudoMaskedLM",
    "ReplacedConfig",
    "ReplacedTokens",
    "Seq2Seq",
    "Seq2SeqConfig",
    "SeveralPasses",
    "StudentConfig",
    "TaughtNetwork",
    "Teacher",
    "Translate",
    "TranslateConfig",
    "TranslationConfig",
    "TranslationLM",
    "Unicoder",
    "UnicoderConfig",
    "UnilmConfig",
    "UnilmMixture",
    "Views",
    "Vocabulary",
    "assemble",
    "build",
    "labelled_loss",
    "mask_row",
    "network_state",
    "passes",
    "smoothed_cross_entropy",
    "summed_cross_entropy",
    "with_auxiliary",
    "word_starts",
]
