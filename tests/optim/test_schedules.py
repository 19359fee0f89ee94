"""The learning rate: closed forms, continuity, warm-up, end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.optim import OptimConfig, ScheduleConfig, lr

KINDS = ("constant", "linear", "cosine", "inverse_sqrt")


def config_of(kind, peak, warmup=0, ratio=0.2):
    return OptimConfig(lr=peak, schedule=ScheduleConfig(kind=kind, warmup_steps=warmup, final_ratio=ratio))


runs = st.builds(
    lambda kind, warmup, rest, ratio, peak: (config_of(kind, peak, warmup, ratio), warmup + rest),
    st.sampled_from(KINDS),
    st.integers(0, 300),
    st.integers(2, 3000),
    st.floats(0, 1),
    st.floats(1e-6, 10),
)


@given(runs)
def test_warm_up_rises_linearly_to_the_peak(run):
    config, total = run
    warmup = config.schedule.warmup_steps
    for step in {0, warmup // 3, warmup - 1} if warmup else ():
        assert lr(step, total, config) == pytest.approx(config.lr * (step + 1) / warmup)
    assert lr(max(warmup - 1, 0), total, config) == pytest.approx(config.lr)


@given(runs, st.data())
def test_never_above_the_peak_never_rising_after_it_and_without_jumps(run, data):
    config, total = run
    start = max(config.schedule.warmup_steps - 1, 0)
    step = data.draw(st.integers(start, total + 10))
    now, then = lr(step, total, config), lr(step + 1, total, config)
    assert 0 <= then <= now * (1 + 1e-12) <= config.lr * (1 + 1e-9)
    # The steepest of the shapes falls by pi/2 of the way in the time of the whole, or as 1/sqrt does.
    steepest = math.pi / 2 / (total - 1 - start) if config.schedule.kind != "inverse_sqrt" else 0.3
    assert now - then <= config.lr * (steepest + 1e-9)


@given(runs)
def test_the_end_value(run):
    config, total = run
    last, ratio = lr(total - 1, total, config), config.schedule.final_ratio
    if config.schedule.kind in ("linear", "cosine"):
        assert last == pytest.approx(config.lr * ratio, abs=1e-12)
    elif config.schedule.kind == "constant":
        assert last == config.lr
    else:
        assert last >= config.lr * ratio * (1 - 1e-12)
    assert lr(total + 1000, total, config) <= last * (1 + 1e-12)


def test_closed_forms():
    def at(kind, step, total=21, warmup=0, ratio=0.2):
        return lr(step, total, config_of(kind, 2.0, warmup, ratio))

    assert at("linear", 10) == pytest.approx(2 * 0.6)
    assert at("cosine", 10) == pytest.approx(2 * 0.6)
    assert at("cosine", 5) == pytest.approx(2 * (0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2))
    assert at("inverse_sqrt", 15, warmup=4, ratio=0.0) == pytest.approx(2 * math.sqrt(4 / 16))
    assert at("inverse_sqrt", 399, warmup=4) == pytest.approx(2 * 0.2)
    assert [at("constant", s, warmup=2) for s in range(3)] == [1.0, 2.0, 2.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_one_step(kind):
    assert 0 <= lr(0, 1, config_of(kind, 1.0)) <= 1
