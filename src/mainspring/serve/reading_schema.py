"""Requests about texts, not for text: embeddings (OpenAI's shape), ranking (Cohere's and Jina's), classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mainspring.serve.schema import Body, Text

Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]
"""Two texts that belong together."""


class EmbeddingRequest(Body):
    """Body of POST /v1/embeddings."""

    input: Text | list[Text]
    """One text or several."""
    encoding_format: Literal["float", "base64"] = "float"
    """Numbers as JSON, or as base64 of 32-bit floats, least significant byte first."""
    dimensions: int | None = Field(None, ge=1)
    """Taken where it is the model's width."""

    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class Document(BaseModel):
    """A text to rank."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text


class RerankRequest(Body):
    """Body of POST /v1/rerank."""

    query: Text
    documents: list[Text | Document] = Field(min_length=1)
    top_n: int | None = Field(None, ge=1)
    """How many are answered, best first; all where it is left out."""
    return_documents: bool = False
    """Whether the texts are sent back."""

    def texts(self) -> list[str]:
        """The documents as texts."""
        return [d if isinstance(d, str) else d.text for d in self.documents]


class ClassifyRequest(Body):
    """Body of POST /v1/classify."""

    input: Text | list[Text] | list[Pair]
    """One text, several, or several pairs."""

    def texts(self) -> list[str] | list[tuple[str, str]]:
        """The texts, or the pairs, as a list."""
        if isinstance(self.input, str):
            return [self.input]
        pairs = [(one[0], one[1]) for one in self.input if not isinstance(one, str)]
        return pairs or [one for one in self.input if isinstance(one, str)]
