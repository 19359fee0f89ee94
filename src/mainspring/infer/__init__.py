"""infer: run a trained model: continue text, embed it, classify it, find things in it."""

from mainspring.infer.answers import Answer, Classification, Embeddings, Entity, Tag, Tags
from mainspring.infer.completion import Completion, Generation, Piece, Speculation, TokenLogprob
from mainspring.infer.engine import Engine
from mainspring.infer.options import GenerateOptions

__all__ = [
    "Answer",
    "Classification",
    "Completion",
    "Embeddings",
    "Engine",
    "Entity",
    "GenerateOptions",
    "Generation",
    "Piece",
    "Speculation",
    "Tag",
    "Tags",
    "TokenLogprob",
]
