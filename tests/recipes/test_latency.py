"""Times of layers as costs: of their own products, measured once a shape; and what has none."""

from __future__ import annotations

import pytest
import torch

from mainspring.compress import choose
from mainspring.compress.sensitivity import Option
from mainspring.errors import UsageError
from mainspring.infer.quantized import PORTABLE
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.recipes.latency import RUN_AS, Milliseconds


def test_layers_cost_their_products() -> None:
    config = TransformerConfig(d_model=32, n_heads=2, n_layers=2, d_ff=64, vocab_size=50)
    model = initialize(Transformer(config), 0)
    cost = Milliseconds(model, 4, PORTABLE, rounds=2)
    for form in ("fp32", "int8", "int4-g64", "msfp12"):
        first, second = cost("layers.0", form, 0), cost("layers.1", form, 10**9)
        assert first == second > 0, "equal layers take equally long, whatever they weigh"
    one = Milliseconds(model, 4, PORTABLE, rounds=2)
    one._known = {(o, i, "int8"): 1.0 for o, i in ((96, 32), (32, 32), (64, 32), (32, 64))}
    assert one("layers.0", "int8", 0) == 4.0
    with pytest.raises(UsageError, match="'int3' is stored and not multiplied in"):
        cost("layers.0", "int3", 0)


def test_what_an_engine_multiplies_in_has_the_formats_values() -> None:
    from mainspring.infer.quantized import precision_named
    from mainspring.numerics import format_named

    weight = torch.randn(24, 128, generator=torch.Generator().manual_seed(0))
    for form, precision in RUN_AS.items():
        make = precision_named(precision).make
        assert make is not None
        values = make(weight, None, PORTABLE).weight
        error = (values - format_named(form).quantize(weight)).norm() / weight.norm()
        assert float(error) <= (0.2 if form == "int4-g64" else 1e-5), "one grid, or for int4 one of 16 steps"


def test_a_budget_of_time_is_a_budget() -> None:
    options = [Option("a", "fp32", 4.0, 0.0), Option("a", "int8", 1.0, 0.5), Option("b", "fp32", 4.0, 0.0)]
    options.append(Option("b", "int8", 1.0, 0.1))
    assert choose(options, 5.0).formats == {"a": "fp32", "b": "int8"}
