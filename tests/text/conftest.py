"""Texts and tokenizers that several tests use."""

import pytest

from mainspring.data import udhr_documents
from mainspring.text import Tokenizer, train_tokenizer

LANGUAGES = ("en", "fr", "ru", "hi", "zh-Hans", "ar", "ja")


@pytest.fixture(scope="session")
def declaration() -> dict[str, str]:
    """The Universal Declaration of Human Rights in a few scripts, by tag."""
    return {d.lang: d.text for d in udhr_documents() if d.lang in LANGUAGES}


@pytest.fixture(scope="session")
def byte_level(declaration: dict[str, str]) -> Tokenizer:
    """A small byte-level BPE tokenizer."""
    return train_tokenizer(declaration.values(), "bpe", 1000)


@pytest.fixture(scope="session")
def unigram(declaration: dict[str, str]) -> Tokenizer:
    """A small Unigram tokenizer."""
    return train_tokenizer(declaration.values(), "unigram", 1200)


@pytest.fixture(scope="session")
def wordpiece(declaration: dict[str, str]) -> Tokenizer:
    """A small WordPiece tokenizer."""
    return train_tokenizer([declaration["en"], declaration["fr"]], "wordpiece", 600)
