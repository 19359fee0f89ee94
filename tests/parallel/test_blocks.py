"""Finding the units of a model, and recomputing them."""

import torch
from torch import nn

from mainspring.parallel.blocks import find_blocks, shardable_blocks
from mainspring.parallel.remat import set_remat
from parallel.examples import EXAMPLES


def test_declared_blocks_come_first():
    model = EXAMPLES["ours-gpt2"].build()
    assert find_blocks(model) == list(model.layers)


def test_lists_of_like_modules_are_found_at_the_outermost_level():
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    model = nn.ModuleDict(
        {
            "stages": nn.ModuleList(Stage() for _ in range(2)),
            "mixed": nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
            "single": nn.ModuleList([nn.Linear(2, 2)]),
            "empty": nn.ModuleList(nn.ReLU() for _ in range(3)),
        }
    )
    assert find_blocks(model) == list(model["stages"])


def test_a_module_that_occurs_twice_is_one_block():
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"layers": nn.ModuleList([layer, layer, nn.Linear(2, 2)])})
    assert find_blocks(model) == [layer, model["layers"][2]]


def test_blocks_that_share_parameters_belong_to_the_root():
    model = EXAMPLES["awkward"].build()
    assert shardable_blocks(model) == [model.layers[1], model.layers[2]]


def test_recomputation_of_any_module_changes_no_gradient_and_keeps_less():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "layers": nn.ModuleList(
                nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8)) for _ in range(3)
            )
        }
    )
    names = list(model.state_dict())
    results = []
    for on in (False, True, True, False):
        set_remat(model, on)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            x = torch.ones(4, 8, requires_grad=True)
            y = x
            for layer in model["layers"]:
                y = layer(y)
        model.zero_grad()
        y.sum().backward()
        results.append((len(kept), [p.grad.clone() for p in model.parameters()]))
    assert results[0][0] == results[3][0] > results[1][0] == results[2][0]
    for _, gradients in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))
    assert list(model.state_dict()) == names


def test_a_model_that_recomputes_by_itself_is_told():
    model = EXAMPLES["ours-gpt2"].build()
    set_remat(model, True)
    assert model.remat is True and "forward" not in model.layers[0].__dict__
