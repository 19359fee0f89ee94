"""The battery over every family."""

import pytest

from mainspring.models import FAMILIES

from .battery import Case, check_hub, check_learns, check_parity, check_refusals, check_round_trip
from .references import CASES


def test_every_family_is_in_the_battery():
    own = {name for name in FAMILIES if name.startswith("deberta")}  # tested with their attention
    assert {case.family for case in CASES} == set(FAMILIES) - own


@pytest.mark.parametrize("padded", ["", "right", "left"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case: Case, padded: str):
    check_parity(case, padded)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_round_trip(case: Case):
    check_round_trip(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hub(case: Case, tmp_path):
    check_hub(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_wrong_checkpoints_are_refused(case: Case):
    check_refusals(case)


@pytest.mark.parametrize("family", sorted({case.family for case in CASES}))
def test_tiny_twin_learns(family: str):
    check_learns(family)
