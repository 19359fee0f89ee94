"""spelling: corrects words in more than a hundred languages, alone and in sentences."""

from mainspring.products.spelling.languages import LANGUAGES, Language, families, known_language
from mainspring.products.spelling.results import Candidate, Correction, WordResult
from mainspring.products.spelling.speller import AUTO, THRESHOLD, Speller

__all__ = [
    "AUTO",
    "LANGUAGES",
    "THRESHOLD",
    "Candidate",
    "Correction",
    "Language",
    "Speller",
    "WordResult",
    "families",
    "known_language",
]
