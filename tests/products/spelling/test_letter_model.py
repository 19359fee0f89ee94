"""The letter model is a distribution and knows what words look like."""

import itertools

import numpy as np

from mainspring.products.spelling.bigrams import LEAST, STEPS, UNSEEN, Bigrams
from mainspring.products.spelling.letter_model import LetterModel
from mainspring.products.spelling.lexicon import Lexicon

MODEL = LetterModel(Lexicon.of({"ab": 10, "aab": 5, "ba": 3, "abab": 1}))


def test_probabilities_of_all_strings_sum_to_nearly_one() -> None:
    strings = ["".join(s) for n in range(1, 11) for s in itertools.product("ab", repeat=n)]
    total = np.exp(MODEL.log_probabilities(strings)).sum()
    assert 0.8 < total <= 1.0 + 1e-9


def test_words_are_likelier_than_what_never_stood_so() -> None:
    word, other, foreign = MODEL.log_probabilities(["ab", "bb", "жж"])
    assert word > other > foreign


def test_no_words_have_no_probabilities() -> None:
    assert MODEL.log_probabilities([]).shape == (0,)


def test_pairs_of_words_come_back_within_a_step() -> None:
    table = Bigrams.of({("a", "lot"): 3.3, ("of", "the"): -1.0, ("x", "y"): 50.0})
    assert abs((table.ratio("a", "lot") or 0) - 3.3) <= 0.5 / STEPS
    assert table.ratio("lot", "a") is None and table.ratio("zz", "zz") is None
    assert table.ratio("x", "y") == 255 / STEPS + LEAST
    assert table.beside("a", "lot", "zz") == (table.ratio("a", "lot") or 0) + UNSEEN
    assert len(Bigrams.of({})) == 0 and Bigrams.of({}).ratio("a", "b") is None
