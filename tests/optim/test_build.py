"""The optimizer: what is decayed, what is left out, and AdamW's own formula."""

import pytest
import torch
from torch import nn

from mainspring.config import parse
from mainspring.errors import ConfigError
from mainspring.nn.span import Span, mark
from mainspring.optim import FlatAdam, OptimConfig, build, parameter_groups


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embed.weight


def test_groups():
    model = Model()
    decayed, plain = parameter_groups(model.parameters(), 0.3)
    assert [id(p) for p in decayed["params"]] == [id(model.embed.weight)]
    vectors = {id(model.norm.weight), id(model.norm.bias), id(model.head.bias)}
    assert {id(p) for p in plain["params"]} == vectors
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


def test_pieces_are_decayed_as_the_whole_is():
    matrix, bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    mark(matrix, Span(torch.Size([2, 3]), 1, 4))
    mark(bias, Span(torch.Size([9]), 1, 4))
    decayed, plain = parameter_groups([matrix, bias], 0.3)
    assert decayed["params"] == [matrix] and plain["params"] == [bias]
    layer = nn.Module()
    layer.weight = matrix
    assert isinstance(build(layer, OptimConfig()), FlatAdam)


def test_other_kinds_are_flat():
    assert build(nn.Linear(2, 2), OptimConfig(kind="radam")).kind == "radam"


def test_no_empty_groups():
    assert len(parameter_groups(nn.LayerNorm(3).parameters(), 0.1)) == 1


def test_updates_follow_the_published_algorithm():
    config = OptimConfig(lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    state = {name: [p.detach().double().clone(), 0.0, 0.0] for name, p in layer.named_parameters()}
    optimizer = build(layer, config)
    assert optimizer.defaults["fused"] is True
    for step in range(1, 5):
        for name, parameter in layer.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            value, m, v = state[name]
            gradient = parameter.grad.double()
            m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
            if parameter.ndim >= 2:
                value = value * (1 - 0.01 * 0.1)
            value = value - 0.01 * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)) ** 0.5 + 1e-3)
            state[name] = [value, m, v]
        optimizer.step()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), state[name][0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"betas": [0.9, 1.0]}, "betas"),
        ({"lr": 0.0}, "lr"),
        ({"kind": "adamv"}, "kind"),
        ({"clip": -1.0}, "clip"),
        ({"schedule": {"kind": "cosin"}}, "schedule.kind"),
        ({"schedule": {"final_ratio": 2.0}}, "schedule.final_ratio"),
    ],
)
def test_wrong_settings_name_their_field(values, field):
    with pytest.raises(ConfigError, match=field):
        parse(OptimConfig, values)
