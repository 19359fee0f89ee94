"""Derivatives by differences, composed blocks against one sequential pass, kernel against numpy."""

import gzip
import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.errors import DataError, NonFiniteError, RunFault, UsageError, WeightsError
from mainspring.linear import LinearModel, LinearSettings, SparseRows, fit, read_csv, read_svmlight
from mainspring.linear.block import Portable, Weights
from mainspring.linear.combiners import Projection, Subset, followed
from mainspring.linear.kernel import compiled
from mainspring.linear.lines import features_of, line_count
from mainspring.linear.losses import LOSSES
from mainspring.linear.merge import Report, merge
from mainspring.linear.readers import two_classes
from mainspring.linear.shared import dealt
from mainspring.linear.workers import Workers

PORTABLE = Portable()
CONSTANT = LinearSettings(loss="least_squares", rate=0.02, schedule="constant")


def problem(n=60, d=12, seed=0, classify=False, density=0.5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * (rng.random((n, d)) < density)
    y = x @ rng.normal(size=d)
    return SparseRows.dense(x, np.sign(y) + (y == 0) if classify else y)


def composed(rows, config, edges, trackers):
    """Blocks that all begin at the same weights, merged; in double precision, in this process."""
    start = np.random.default_rng(1).normal(size=rows.features)
    weights, before, reports = Weights(start.copy()), start.copy(), []
    for (first, last), tracker in zip(edges, trackers, strict=True):
        local = Weights(start.copy())
        passed = PORTABLE.pass_over(rows, np.arange(first, last), first, config.steps, local, tracker)
        reports.append(Report(passed.lines, local.values, local.scale, passed.decay, tracker))
    merge(weights, before, reports, config, PORTABLE)
    np.testing.assert_array_equal(before, weights.values)
    alone = Weights(start.copy())
    PORTABLE.pass_over(rows, np.arange(edges[-1][1]), 0, config.steps, alone, None)
    return weights.whole(), alone.whole(), start


@pytest.mark.parametrize("name", LOSSES)
@given(m=st.floats(-30, 30), y=st.sampled_from([-1.0, 1.0]))
def test_slopes_and_curvatures_are_derivatives(name, m, y):
    loss, h = LOSSES[name], 1e-5
    if abs(1 - y * m) < 2 * h:  # a kink
        return
    slope = (loss.value(m + h, y) - loss.value(m - h, y)) / (2 * h)
    curvature = (loss.slope(m + h, y) - loss.slope(m - h, y)) / (2 * h)
    assert loss.slope(m, y) == pytest.approx(slope, abs=1e-4)
    assert loss.curvature(m, y) == pytest.approx(curvature, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), workers=st.integers(2, 5), l2=st.sampled_from([0.0, 0.3]))
def test_exact_blocks_of_least_squares_are_the_sequential_pass(seed, workers, l2):
    rows, config = problem(seed=seed), CONSTANT.replace(combiner="exact", l2=l2)
    edges = [(k * 60 // workers, (k + 1) * 60 // workers) for k in range(workers)]
    features = followed(config, rows.counts)
    trackers = [Subset.of(features, rows.features, float) for _ in edges]
    found, alone, _ = composed(rows, config, edges, trackers)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-11)


def test_other_losses_are_composed_to_second_order_in_the_other_blocks_change():
    rows = problem(classify=True)
    errors = []
    for rate in (0.08, 0.04, 0.02):
        config = LinearSettings(loss="logistic", rate=rate, schedule="constant", combiner="exact")
        trackers = [Subset.of(followed(config, rows.counts), rows.features, float) for _ in range(2)]
        found, alone, _ = composed(rows, config, [(0, 30), (30, 60)], trackers)
        errors.append(abs(found - alone).max())
    # What is left out is the step times the square of the change: the cube of the rate.
    assert errors[0] / errors[1] > 5 and errors[1] / errors[2] > 5


def test_projection_is_right_on_average_and_worse_than_exact_in_each_draw():
    rows, config = problem(n=40, d=10), CONSTANT.replace(combiner="projected", rank=8)
    draws = []
    for seed in range(600):
        trackers = [None, Projection(np.zeros((rows.features, 8)), seed)]
        found, alone, _ = composed(rows, config, [(0, 20), (20, 40)], trackers)
        draws.append(found)
    single = np.abs(np.array(draws) - alone).max(1).mean()
    spread = np.std(draws, axis=0).max() / np.sqrt(len(draws))
    assert np.abs(np.mean(draws, axis=0) - alone).max() < 5 * spread
    assert single > 10 * spread


@pytest.mark.parametrize("combiner", ["sum", "mean"])
def test_sum_and_mean_by_hand(combiner):
    rows, config = problem(), CONSTANT.replace(combiner=combiner)
    found, _, start = composed(rows, config, [(0, 30), (30, 60)], [None, None])
    ends = []
    for first in (0, 30):
        local = Weights(start.copy())
        PORTABLE.pass_over(rows, np.arange(first, first + 30), first, config.steps, local, None)
        ends.append(local.whole())
    expected = start + sum(e - start for e in ends) if combiner == "sum" else np.mean(ends, axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.fixture(scope="module")
def kernel():
    return compiled()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("schedule", ["constant", "inverse", "inverse_sqrt"])
@pytest.mark.parametrize("kind", ["none", "subset", "projection"])
def test_the_kernel_is_the_reference(kernel, loss, schedule, kind):
    rows = problem(n=300, d=40, classify=loss != "least_squares", density=0.2)
    config = LinearSettings(loss=loss, schedule=schedule, rate=0.05, decay=0.01, l2=0.01)
    order = np.random.default_rng(2).permutation(300)
    results = []
    for loops in (PORTABLE, kernel):
        weights = Weights(np.full(40, 0.1, dtype=np.float32), 0.5)
        features = np.arange(0, 40, 3, dtype=np.int32)
        tracker = {"none": None, "subset": Subset.of(features, 40)}.get(
            kind, Projection(np.zeros((40, 5), np.float32), 7)
        )
        passed = loops.pass_over(rows, order, 1000, config.steps, weights, tracker)
        results.append((weights.whole(), passed, None if tracker is None else tracker.change))
    (w, passed, change), (w2, passed2, change2) = results
    np.testing.assert_allclose(w2, w, atol=2e-5)
    np.testing.assert_array_equal(passed2.lines, passed.lines)
    assert passed2.decay == pytest.approx(passed.decay) and passed2.loss == pytest.approx(
        passed.loss, rel=1e-4
    )
    if change is not None:
        assert loss == "hinge" or np.abs(change).max() > 0
        np.testing.assert_allclose(change2, change, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(features=st.integers(1, 70), seed=st.integers(0, 10_000))
def test_lines_are_added_and_copied_as_features_are(kernel, features, seed):
    rng = np.random.default_rng(seed)
    lines = np.flatnonzero(rng.random(line_count(features)) < 0.6).astype(np.int32)
    here = features_of(lines, features)
    assert here.tolist() == [f for f in range(features) if f // 16 in lines]
    old, ends, begins = (rng.normal(size=features).astype(np.float32) for _ in range(3))
    expected = old.copy()
    expected[here] += 0.3 * (ends - begins)[here]
    for loops in (PORTABLE, kernel):
        values = old.copy()
        loops.add(values, lines, ends, begins, 0.3)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)
        loops.copy(values, lines, ends)
        np.testing.assert_array_equal(values[here], ends[here])
        others = np.setdiff1d(np.arange(features), here)
        np.testing.assert_array_equal(values[others], old[others])


def test_rows_on_some_of_their_features(kernel):
    rows = problem()
    np.testing.assert_array_equal(kernel.counts(rows), rows.counts())
    tracker = Subset.of(np.array([2, 7], dtype=np.int32), rows.features)
    kernel.prepare(tracker, rows)
    _, chosen = tracker.chosen
    for i in range(len(rows)):
        (indices, values), (own, parts) = rows.row(i), chosen.row(i)
        expected = {((2, 7).index(f), v) for f, v in zip(indices, values, strict=True) if f in (2, 7)}
        assert set(zip(own, parts, strict=True)) == expected


@pytest.mark.parametrize("combiner", ["frequent", "projected", "sum", "mean"])
def test_processes_do_what_one_process_composes(combiner):
    """Two rounds, against blocks merged here by the portable loops."""
    rows = problem(n=128, d=40, classify=True)
    config = LinearSettings(rate=0.05, combiner=combiner, rank=8, workers=2, block=32, l2=0.01)
    found = fit(rows, config)
    order = np.random.default_rng((0, 0)).permutation(128)
    features = followed(config, rows.counts)
    weights = Weights(np.zeros(rows.features))
    for first in (0, 64):
        before, reports = weights.values.copy(), []
        tracker = None
        if combiner == "frequent":
            tracker = Subset.of(features, rows.features, float)
        elif combiner == "projected":
            tracker = Projection(np.zeros((rows.features, 8)), 2 * first + 1)
        edges = dealt(first, first + 64, [1.0, tracker.cost(rows) if tracker else 1.0])
        for begin, end, own in zip(edges, edges[1:], (None, tracker), strict=False):
            local = Weights(before.copy(), weights.scale)
            block = order[begin:end]
            passed = PORTABLE.pass_over(rows, block, begin, config.steps, local, own)
            reports.append(Report(passed.lines, local.values, local.scale, passed.decay, own))
        merge(weights, before, reports, config, PORTABLE)
    np.testing.assert_allclose(found.weights, weights.whole(), atol=2e-6)


@pytest.mark.parametrize("loss", ["least_squares", "logistic"])
def test_two_processes_learn_what_one_does(loss):
    rows = problem(n=400, d=20, classify=loss == "logistic")
    config = LinearSettings(loss=loss, rate=0.02, l2=0.2, epochs=2, combiner="exact", block=64)
    one, two = fit(rows, config), fit(rows, config.replace(workers=2))
    np.testing.assert_allclose(two.weights, one.weights, atol=3e-6 if loss == "least_squares" else 3e-3)
    assert two.examples == one.examples == 800


def test_training_goes_on_from_a_model():
    rows, config = problem(n=100), LinearSettings(loss="least_squares", rate=0.02)
    whole = fit(rows, config.replace(epochs=3))
    part = fit(rows, config.replace(epochs=2), start=fit(rows, config))
    np.testing.assert_allclose(part.weights, whole.weights, atol=1e-6)


def test_a_killed_worker_is_named():
    rows = problem(n=100)
    weights = Weights(np.zeros(rows.features, np.float32))
    with Workers(rows, weights, CONSTANT.replace(workers=2, combiner="sum"), PORTABLE) as workers:
        os.kill(workers._processes[1].pid, signal.SIGKILL)
        with pytest.raises(RunFault, match="worker 1 of 2 ended with exit code -9"):
            workers.round(0, 100, 0, 0)
    assert not any(process.is_alive() for process in workers._processes.values())


def test_workers_end_with_the_training():
    """Also where that was killed: nobody else has the training's ends of the pipes."""
    rows = problem(n=100)
    weights = Weights(np.zeros(rows.features, np.float32))
    with Workers(rows, weights, CONSTANT.replace(workers=3, combiner="sum"), PORTABLE) as workers:
        for pipe in workers._pipes.values():
            pipe.close()
        assert len(workers._processes) == 2
        for process in workers._processes.values():
            process.join(timeout=10)
            assert process.exitcode == 0


def test_too_long_steps_are_told():
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="rate=10"):
        fit(problem(n=2000, density=1.0), CONSTANT.replace(rate=100.0, epochs=5, block=200))


def test_wrong_input_is_told():
    with pytest.raises(UsageError, match="needs targets -1 and \\+1"):
        fit(problem(), LinearSettings())
    wide = SparseRows.dense(np.ones((1, 5000)), np.ones(1))
    with pytest.raises(UsageError, match="5,000 features keeps a matrix"):
        followed(LinearSettings(combiner="exact"), wide.counts)


def test_svmlight(tmp_path):
    path = tmp_path / "d.txt.gz"
    path.write_bytes(gzip.compress(b"1 1:0.5 3:2 # a remark\n\n-1 qid:7 2:1e-1\n+1\n"))
    rows = read_svmlight(path)
    assert rows.features == 4 and rows.targets.tolist() == [1, -1, 1]
    assert [rows.row(k)[0].tolist() for k in range(3)] == [[0, 2, 3], [1, 3], [3]]
    assert rows.row(1)[1].tolist() == pytest.approx([0.1, 1.0])
    fewer = read_svmlight(path, features=2, bias=False)
    assert fewer.features == 2 and fewer.row(0)[0].tolist() == [0]
    for text, message in (
        (b"1 0:1\n", "begin at 1"),
        (b"1 1:1\n1 2:x\n", "line 2: '2:x'"),
        (b"", "no examples"),
    ):
        (tmp_path / "bad").write_bytes(text)
        with pytest.raises(DataError, match=message):
            read_svmlight(tmp_path / "bad")


def test_svmlight_equals_scikit_learn(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 17)) * (rng.random((30, 17)) < 0.3)
    datasets.dump_svmlight_file(x, rng.normal(size=30), str(tmp_path / "d"), zero_based=False)
    theirs, targets = datasets.load_svmlight_file(str(tmp_path / "d"), n_features=17)
    ours = read_svmlight(tmp_path / "d", features=17, bias=False)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.values, theirs.data, rtol=1e-6)
    np.testing.assert_allclose(ours.targets, targets, rtol=1e-6)


def test_tables_and_classes(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("age,city,rich\n30,Oslo,no\n40,Bonn,yes\n,Oslo,no\n")
    rows, names = read_csv(path, target="rich", bits=16)
    assert len(rows) == 3 and names == ["no", "yes", "no"]
    assert len(rows.row(2)[0]) == 2 and sorted(rows.row(0)[1].tolist()) == [1, 1, 30]
    assert set(rows.row(0)[0]) & set(rows.row(2)[0]) == set(rows.row(2)[0])
    targets, classes = two_classes(names)
    assert targets.tolist() == [-1, 1, -1] and classes == ("no", "yes")
    assert two_classes(["10", "9"])[1] == ("9", "10")
    with pytest.raises(DataError, match="did you mean 'rich'"):
        read_csv(path, target="ritch")
    with pytest.raises(DataError, match="3 classes"):
        two_classes(["a", "b", "c"])
    with pytest.raises(DataError, match="1 unknown classes \\(c\\)"):
        two_classes(["a", "c"], ("a", "b"))


def test_a_model_is_saved_scored_and_loaded(tmp_path):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rows = problem(n=200, classify=True)
    model = fit(rows, LinearSettings(rate=0.5))
    score = model.score(rows)
    margins = model.decide(rows)
    assert score.auc == pytest.approx(metrics.roc_auc_score(rows.targets, margins))
    assert score.accuracy == pytest.approx(metrics.accuracy_score(rows.targets > 0, margins > 0))
    assert score.accuracy > 0.9
    model.save(tmp_path / "m.safetensors")
    again = LinearModel.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.weights, model.weights)
    assert again.settings == model.settings and again.examples == 200
    (tmp_path / "other").write_bytes(b"no")
    with pytest.raises(WeightsError, match="cannot be read as a linear model"):
        LinearModel.load(tmp_path / "other")
