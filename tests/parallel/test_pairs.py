"""No pair of options is left to chance: each is refused with its reason, or trains as one process does."""

from __future__ import annotations

import functools

import pytest

from parallel.battery import check
from parallel.pairs import FEW, MANY, OTHERWISE, WORLD, battery, pairs, refusal, told
from support.spawn import RankFailure, run_ranks

PATIENCE = 600


def test_every_pair_is_refused_or_in_the_battery():
    together = {pair for world, case in battery() for pair in pairs() if told(world, case) >= set(pair)}
    for pair in pairs():
        if OTHERWISE & set(pair):
            continue
        said = refusal(*pair)
        assert (said is None) == (pair in together), (pair, said)


def test_refusals_say_what_to_do():
    said = {pair: why for pair in pairs() if (why := refusal(*pair)) is not None}
    assert len(said) > 20
    for pair, why in said.items():
        assert any(word in why for word in ("set ", "use ", "legal")), (pair, why)


@functools.cache
def outcomes(always):
    chosen = FEW if always else MANY
    try:
        return run_ranks(check, WORLD, chosen, timeout=PATIENCE)[0]
    except RankFailure as failure:  # said of each case, not tried again for each
        return {case.id: str(failure) for case in chosen}


@pytest.mark.distributed
@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize(
    ("always", "case"),
    [
        pytest.param(always, case.id, id=case.id, marks=marks)
        for some, always, marks in ((FEW, True, ()), (MANY, False, pytest.mark.slow))
        for case in some
    ],
)
def test_as_one_process(always, case):
    errors = outcomes(always)[case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors
