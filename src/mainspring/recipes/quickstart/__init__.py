"""The quickstart: from text to a model that answers, on two processes of this machine, in minutes."""

from mainspring.recipes.quickstart.corpus import Corpus
from mainspring.recipes.quickstart.pipeline import MINUTES, PROMPTS, Searching, Summary, forget, run
from mainspring.recipes.quickstart.specialise import Pairs

__all__ = ["MINUTES", "PROMPTS", "Corpus", "Pairs", "Searching", "Summary", "forget", "run"]
