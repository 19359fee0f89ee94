"""suggest: completions while somebody types, from past queries, titles and a small language model."""

from mainspring.products.suggest.prefixes import Prefixes, Suggestion
from mainspring.products.suggest.queries import QueryLog
from mainspring.products.suggest.suggester import LEAST_ASKED, PhraseModel, Suggester

__all__ = ["LEAST_ASKED", "PhraseModel", "Prefixes", "QueryLog", "Suggester", "Suggestion"]
