"""A small corpus, its tokenizer and its build, made once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mainspring.data import Document, TokenData, build, docstring_documents, udhr_documents
from mainspring.text import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Two sources: some module documentation, and the declaration in 40 languages."""
    docs = list(docstring_documents(limit_bytes=400_000, source="docs"))
    return docs + list(udhr_documents())[100:140]


@pytest.fixture(scope="session")
def tokenizer(documents: Sequence[Document]) -> Tokenizer:
    """A byte-level tokenizer of 600 entries."""
    return train_tokenizer([d.text for d in documents[::3]], "bpe", 600)


@pytest.fixture(scope="session")
def data(
    documents: Sequence[Document], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> TokenData:
    """The corpus as token data, a tenth held out."""
    place = tmp_path_factory.mktemp("data")
    build(documents, tokenizer, place, holdout=0.1)
    return TokenData.open(place, verify=True)


@pytest.fixture
def letters(tmp_path: Path) -> TokenData:
    """Tiny documents of known ids: one source of lengths 1, 2, ... 9, letters encoded one by one."""
    tokenizer = train_tokenizer(["a"], "bpe", 257)
    texts = ["".join(chr(ord("a") + (n * 3 + i) % 26) for i in range(n)) for n in range(1, 10)]
    build(
        [Document(t, "letters", None, str(i)) for i, t in enumerate(texts)],
        tokenizer,
        tmp_path / "l",
        holdout=0.0,
    )
    return TokenData.open(tmp_path / "l")


@pytest.fixture
def rng() -> np.random.Generator:
    """Numbers for tests."""
    return np.random.default_rng(0)
