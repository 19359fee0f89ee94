"""infer: continue text with a trained model."""

from mainspring.infer.completion import Completion, Generation, Piece, Speculation, TokenLogprob
from mainspring.infer.engine import Engine
from mainspring.infer.options import GenerateOptions

__all__ = ["Completion", "Engine", "GenerateOptions", "Generation", "Piece", "Speculation", "TokenLogprob"]
