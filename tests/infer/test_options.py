"""GenerateOptions: what is refused, and how."""

from typing import Any

import pytest

from mainspring.errors import ConfigError
from mainspring.infer.options import GenerateOptions


def test_the_default_is_greedy() -> None:
    assert not GenerateOptions().samples


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("num_beams", 0),
        ("no_repeat_ngram", -1),
        ("length_penalty", float("inf")),
        ("n", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("early_stopping", "maybe"),
        ("logprobs", -1),
        ("stop", "text"),
        ("stop", ("",)),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{field} = "):
        GenerateOptions(**{field: value})


def test_beams_do_not_sample_and_have_no_more_than_they_keep() -> None:
    with pytest.raises(ConfigError, match="temperature = 0"):
        GenerateOptions(num_beams=2, temperature=1.0)
    with pytest.raises(ConfigError, match="n = 3"):
        GenerateOptions(num_beams=2, n=3)
