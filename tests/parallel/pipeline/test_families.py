"""Every family, and every part that a model can have, in stages: the losses and gradients of one process."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from mainspring import parallel
from mainspring.nn import Transformer, initialize
from mainspring.parallel import Plan
from parallel.tensor.test_families import objective
from parallel.tensor.variants import LENGTH, batch_of, families, parts
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

CONFIGS = {
    name: config.replace(n_layers=2) if config.n_layers == 1 else config
    for name, config in (families() | parts()).items()
}
SCHEDULES: list[dict[str, Any]] = [{}, {"pipeline_schedule": "zero_bubble"}]


def differences(rank: int, world: int, fields: dict[str, Any]) -> dict[str, tuple[dict[str, float], int]]:
    """Of each model the largest errors of losses and of this rank's gradients, relative to the largest
    gradient, and the number of parameters that this rank keeps."""
    found = {}
    for name, config in CONFIGS.items():
        micro_batches = [batch_of(config, LENGTH - short) for short in range(2)]

        def loss(model: Any, given: Any, config: Any = config) -> Tensor:
            value: Tensor = objective(model, config, *given, states=False)
            return value

        one = initialize(Transformer(config), seed=1)
        want = [loss(one, given) for given in micro_batches]
        sum(want).backward()  # type: ignore[union-attr]
        model = initialize(Transformer(config), seed=1 if rank == 0 else 2)
        parallel.apply(model, Plan(pipeline=world, **fields))
        got = parallel.accumulate(model, micro_batches, loss)
        assert len(got) == (len(want) if parallel.has_results(model) else 0)
        errors = {
            f"loss {n}": float((mine - theirs).detach().abs() / theirs.detach().abs())
            for n, (mine, theirs) in enumerate(zip(got, want, strict=False))
        }
        gradients = {key: p.grad for key, p in one.named_parameters()}
        largest = max(float(g.abs().max()) for g in gradients.values() if g is not None)
        kept = 0
        for key, parameter in model.named_parameters():
            theirs = gradients[key]
            assert (parameter.grad is None) == (theirs is None), (name, key)
            kept += 1
            if parameter.grad is not None and theirs is not None:
                errors[key] = float((parameter.grad - theirs).abs().max()) / largest
        found[name] = errors, kept
    return found


@pytest.fixture(scope="module", params=SCHEDULES, ids=str)
def outcomes(request: pytest.FixtureRequest) -> list[dict[str, tuple[dict[str, float], int]]]:
    return run_ranks(differences, 2, request.param, timeout=200)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_as_one_process(outcomes: list[dict[str, tuple[dict[str, float], int]]], name: str) -> None:
    for rank in outcomes:
        errors, _ = rank[name]
        worst = max(errors, key=lambda key: errors[key])
        assert errors[worst] < 2e-5, (worst, errors[worst])
    whole = sum(1 for _ in Transformer(CONFIGS[name]).parameters())
    assert sum(rank[name][1] for rank in outcomes) == whole, "each parameter is kept by one rank"
