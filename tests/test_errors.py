"""Errors teach: what is absent says how to get it, what is misspelt says what was meant."""

import pytest

from mainspring import errors


def test_suggest_finds_the_nearest_or_lists() -> None:
    assert errors.suggest("stpes", ["steps", "seed"]) == "did you mean 'steps'?"
    assert errors.suggest("zzz", ["b", "a"]) == "known: 'a', 'b'"


def test_require_names_the_extra() -> None:
    assert errors.require("json", "serve").__name__ == "json"
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'mainspring\[serve\]'"):
        errors.require("no_such_module_here", "serve")


def test_one_tree() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert all(issubclass(c, errors.MainspringError) for c in classes)
    assert issubclass(errors.ConfigError, ValueError) and issubclass(errors.NonFiniteError, RuntimeError)
