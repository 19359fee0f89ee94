"""Claims name what exists; a figure comes from a result or is not there."""

import json

import pytest

from tools.claims import KINDS, NOT_MEASURED, ROOT, bar_of, claimed, claims, difference_of, measured

RESULTS = ROOT / "benchmarks/results"


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim["claim"])
def test_a_claim_names_what_exists(claim):
    assert claim["kind"] in KINDS
    assert set(claim) <= {"system", "claim", "source", "kind", "bars", "differences", "tests", "because"}
    for test in claim.get("tests", ()):
        assert (ROOT / test).is_file()
    for result, name in claim.get("bars", ()):
        assert (ROOT / f"benchmarks/{result}.py").is_file() or list(RESULTS.glob(f"{result}.json"))
        path = RESULTS / f"{result}.json"
        if path.exists():
            assert bar_of(path, name) is not None, f"{path.name} has no bar {name!r}"
    for result, experiment, measure in claim.get("differences", ()):
        assert difference_of(RESULTS / f"{result}.json", experiment, measure) is not None


def test_figures_are_those_of_results(tmp_path):
    bars = [{"name": "a", "value": 2.5, "met": True}, {"name": "b", "value": 0.1234, "met": False}]
    (tmp_path / "one.json").write_text(json.dumps({"bars": bars}))
    rows = [
        {"experiment": "e", "measure": "m", "arm": "a", "mean": 1.0, "+-": 0.5},
        {"experiment": "e", "measure": "m", "arm": "b - a: worse", "mean": 0.25, "+-": 0.125},
    ]
    (tmp_path / "three.json").write_text(json.dumps({"bars": [], "rows": rows}))
    apart = {"differences": [["three", "e", "m"], ["three", "e", "n"], ["four", "e", "m"]]}
    assert measured(apart, tmp_path) == "m, b - a: worse: 0.25 +- 0.12"
    claim = {"bars": [["one", "a"], ["one", "b"], ["two", "a"]]}
    assert measured(claim, tmp_path) == "a: 2.5; b: 0.123 (bar missed)"
    assert measured({"bars": [["one", "c"]]}, tmp_path) == NOT_MEASURED
    assert measured({"tests": ["t.py"]}, tmp_path) == "asserted by `t.py`"
    assert measured({"because": "why"}, tmp_path) == f"{NOT_MEASURED}; why"
    assert len(claimed(tmp_path)) == len(claims())
