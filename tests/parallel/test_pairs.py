"""No pair of options is left to chance: each is refused with its reason, or trains as one process does."""

from __future__ import annotations

import functools

import pytest

from parallel.battery import check
from parallel.pairs import GROUPS, OTHERWISE, WORLD, battery, pairs, refusal, told
from support.spawn import RankFailure, run_ranks

PATIENCE = 600


def test_every_pair_is_refused_or_in_the_battery():
    having = {told(world, case) for world, case in battery()}
    for pair in pairs():
        if OTHERWISE & set(pair):
            continue
        said = refusal(*pair)
        assert (said is None) == any(options >= set(pair) for options in having), (pair, said)


def test_refusals_say_what_to_do():
    said = {pair: why for pair in pairs() if (why := refusal(*pair)) is not None}
    assert len(said) > 20
    for pair, why in said.items():
        assert any(word in why for word in ("set ", "use ", "legal")), (pair, why)


@functools.cache
def outcomes(group):
    chosen = GROUPS[group]
    try:
        return run_ranks(check, WORLD, chosen, timeout=PATIENCE)[0]
    except RankFailure as failure:  # said of each case, not tried again for each
        return {case.id: str(failure) for case in chosen}


@pytest.mark.distributed
@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize(
    ("group", "case"),
    [
        pytest.param(group, case.id, id=case.id, marks=() if group == "few" else pytest.mark.slow)
        for group, some in GROUPS.items()
        for case in some
    ],
)
def test_as_one_process(group, case):
    errors = outcomes(group)[case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors
