"""From settings to an objective."""

from __future__ import annotations

from mainspring.objectives.base import Objective
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
from mainspring.objectives.distill import Distill
from mainspring.objectives.encoder_decoder import Denoising, Translate
from mainspring.objectives.masked import MaskedLM
from mainspring.objectives.mixed import Mixed
from mainspring.objectives.prefix import PrefixLM
from mainspring.objectives.pseudo_masked import PseudoMaskedLM
from mainspring.objectives.replaced import ReplacedTokens
from mainspring.objectives.seq2seq import Seq2Seq
from mainspring.objectives.students import MixtureOfStudents
from mainspring.objectives.translation import TranslationLM
from mainspring.objectives.unicoder import Unicoder
from mainspring.objectives.unilm import UnilmMixture
from mainspring.objectives.words import Vocabulary


def build(config: ObjectiveConfig, vocabulary: Vocabulary) -> Objective:
    """Make the objective that `config` names.

    Raises:
        ConfigError: the tokenizer lacks what the objective needs.
    """
    match config:
        case MaskedConfig():
            return MaskedLM(config, vocabulary)
        case PseudoMaskedConfig():
            return PseudoMaskedLM(config, vocabulary)
        case PrefixConfig():
            return PrefixLM(config, vocabulary)
        case Seq2SeqConfig():
            return Seq2Seq(config, vocabulary)
        case UnilmConfig():
            return UnilmMixture(config, vocabulary)
        case ReplacedConfig():
            return ReplacedTokens(config, vocabulary)
        case TranslationConfig():
            return TranslationLM(config, vocabulary)
        case ContrastConfig():
            return CrossLingualContrast(config, vocabulary)
        case DenoisingConfig():
            return Denoising(config, vocabulary)
        case TranslateConfig():
            return Translate(config, vocabulary)
        case UnicoderConfig():
            return Unicoder(config, vocabulary)
        case DistillConfig():
            return Distill(config, vocabulary)
        case StudentConfig():
            return MixtureOfStudents(config, build(config.text, vocabulary))
        case MixedConfig():
            text, pairs = (build(part, vocabulary) for part in (config.text, config.pairs))
            return Mixed(config, text, pairs, vocabulary)
        case CausalConfig():
            return CausalLM()
