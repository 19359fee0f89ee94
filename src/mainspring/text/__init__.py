"""Text: normalisation, language tags, and tokenizers that are trained, loaded and saved."""

from mainspring.text.languages import LanguageTag, language_tag
from mainspring.text.normalize import NormalizeConfig, normalize
from mainspring.text.tokenizer import Tokenizer
from mainspring.text.train import TokenizerSpec, train_tokenizer

__all__ = [
    "LanguageTag",
    "NormalizeConfig",
    "Tokenizer",
    "TokenizerSpec",
    "language_tag",
    "normalize",
    "train_tokenizer",
]
