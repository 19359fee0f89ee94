"""search: documents found by words and by meaning, with captions and highlights (extra: search)."""

from mainspring.products.search.answers import Answerer
from mainspring.products.search.check import Damage, repair
from mainspring.products.search.documents import Document
from mainspring.products.search.encoder import Encoder, ModelEncoder
from mainspring.products.search.index import Index
from mainspring.products.search.rank import Evidence, Ranker
from mainspring.products.search.results import Answer, Caption, Hit, Results

__all__ = [
    "Answer",
    "Answerer",
    "Caption",
    "Damage",
    "Document",
    "Encoder",
    "Evidence",
    "Hit",
    "Index",
    "ModelEncoder",
    "Ranker",
    "Results",
    "repair",
]
