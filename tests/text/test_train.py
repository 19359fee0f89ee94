"""Training tokenizers."""

import pytest

from mainspring.config import parse
from mainspring.errors import ConfigError, TokenizerError
from mainspring.text import Tokenizer, TokenizerSpec, train_tokenizer
from mainspring.text.train import SPECIALS


@pytest.mark.parametrize(("kind", "size"), [("bpe", 700), ("unigram", 900), ("wordpiece", 500)])
def test_size_and_specials(declaration: dict[str, str], kind: str, size: int) -> None:
    tokenizer = train_tokenizer(
        [declaration["en"], declaration["fr"]], kind, size, extra_special=["<|user|>"]
    )
    assert size * 0.95 <= tokenizer.vocab_size <= size
    expected = [*SPECIALS[kind], "<|user|>"]
    assert [tokenizer.token(i) for i in range(len(expected))] == expected
    assert tokenizer.encode("<|user|>", specials=True) == [len(expected) - 1]
    assert len(tokenizer.encode(declaration["en"])) < len(declaration["en"]) / 2


def test_byte_level_training_is_deterministic(declaration: dict[str, str], byte_level: Tokenizer) -> None:
    assert train_tokenizer(declaration.values(), "bpe", 1000).hash == byte_level.hash


def test_byte_level_merges_are_those_of_the_definition() -> None:
    """The first merges of a tiny text by hand: 'aa' occurs most, then 'aab'."""
    tokenizer = train_tokenizer(["aab aab aab aac"], "bpe", 259, min_frequency=1)
    assert [tokenizer.token(i) for i in range(257, 259)] == ["aa", "Ġaa"]


def test_one_long_text_is_enough(declaration: dict[str, str]) -> None:
    long = " ".join([declaration["en"]] * 20)
    assert train_tokenizer([long], "bpe", 500).vocab_size == 500


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_no_text_is_an_error(kind: str) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer([], kind, 400)


def test_small_vocabulary_is_an_error() -> None:
    with pytest.raises(ConfigError, match="vocab_size = 100 is too small: bpe needs 257"):
        train_tokenizer(["a"], "bpe", 100)
    with pytest.raises(ConfigError, match="kind = 'bp'.*did you mean 'bpe'"):
        parse(TokenizerSpec, {"kind": "bp"})


def test_lowercase_is_a_choice() -> None:
    texts = ["Human Rights and human rights"] * 4
    cased = train_tokenizer(texts, "wordpiece", 100, lowercase=False)
    assert cased.decode(cased.encode("Human")) == "Human"
    folded = train_tokenizer(texts, "wordpiece", 100)
    assert folded.decode(folded.encode("Human")) == "human"
