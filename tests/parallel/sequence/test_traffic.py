"""What tokens on several ranks send is the formulas', to the byte.

By heads 4 (n - 1) / n of the activations a layer and direction; round a ring n - 1 times keys and values, in
backward with their gradients.
"""

from __future__ import annotations

from typing import Any

import pytest

from mainspring import parallel
from mainspring.parallel import Plan
from mainspring.parallel.sequence import split_tokens
from mainspring.parallel.sequence.spread import NAME
from parallel.sequence import cases
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

RANKS, LAYERS, WIDTH = 4, 2, 32
WAYS: dict[str, dict[str, Any]] = {
    f"{way}{', remat' if remat else ''}, {precision}": {
        "plan": {"sequence_attention": way, "remat": remat, "zero": int(precision == "bf16")},
        "precision": precision,
    }
    for way in ("heads", "ring")
    for remat in (False, True)
    for precision in ("fp32", "bf16")
}


def sent(rank: int, world: int) -> dict[str, tuple[int, float]]:
    """Bytes that this rank gives away and sends to others in a micro-batch, each way."""
    found = {}
    for name, way in WAYS.items():
        model = cases.model("rotary")
        parallel.apply(model, Plan(sequence=world, **way["plan"]), precision=way["precision"], reduce="sum")
        zigzag = way["plan"]["sequence_attention"] == "ring"
        batch = split_tokens(cases.batch("causal, padded"), rank, world, zigzag=zigzag)
        with parallel.traffic(model).measure() as seen:
            cases.loss(model, batch)[0].backward()
        moved = seen.records[NAME, "all_to_all"]
        found[name] = moved.payload, moved.wire
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, tuple[int, float]]]:
    return run_ranks(sent, RANKS)


@pytest.mark.parametrize("name", list(WAYS))
def test_bytes_are_the_formulas(ranks: list[dict[str, tuple[int, float]]], name: str) -> None:
    width = 4 if "fp32" in name else 2
    stream = cases.ROWS * cases.LENGTH // RANKS * WIDTH
    again = "remat" in name
    if name.startswith("heads"):
        want = LAYERS * 4 * (2 + again) * stream * width * (RANKS - 1) / RANKS
    else:  # gradients of keys and values travel in fp32
        want = LAYERS * 2 * ((2 + again) * width + 4) * stream * (RANKS - 1)
    for rank in ranks:
        assert rank[name][1] == want
