"""The quickstart: from text to a model that answers, on two processes of this machine, in minutes."""

from mainspring.recipes.quickstart.corpus import Corpus
from mainspring.recipes.quickstart.pipeline import MINUTES, PROMPTS, Summary, run

__all__ = ["MINUTES", "PROMPTS", "Corpus", "Summary", "run"]
