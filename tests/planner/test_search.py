"""The search: what it prefers, what it refuses and why, and that nothing is lost on the way."""

import pytest

from mainspring.errors import ConfigError, PlanError
from mainspring.models.gpt2.config import gpt2
from mainspring.objectives import Vocabulary, build
from mainspring.objectives.config import ContrastConfig, ReplacedConfig
from mainspring.planner import (
    Candidate,
    Space,
    cost,
    count_parameters,
    device,
    devices,
    inventory_of,
    search,
    work_of,
)
from mainspring.planner.explain import reasons
from mainspring.planner.presets import TURING_NLG
from mainspring.planner.states import state_bytes

SMALL = gpt2(256, 4, 4, vocab_size=1024, max_positions=128)
INVENTORY, WORK = inventory_of(SMALL), work_of(SMALL, 128)
V100 = device("v100-32g")
TIGHT = V100.replace(memory=V100.reserved + 90 * 2**20)


def test_states_of_flat_shards_follow_the_contract():
    """bf16: 2 + 2 + 12/N, 2 + 14/N and 16/N (with the gathered window); fp32: its variants."""
    n, psi = 8, INVENTORY.total
    window = INVENTORY.root.numel + 2 * INVENTORY.largest_block

    def states(zero, numerics):
        found = state_bytes(INVENTORY, Candidate(data=n, zero=zero), numerics).device
        return found["parameters"] + found["gradients"] + found["optimizer"]

    assert states(1, "bf16") == pytest.approx((4 + 12 / n) * psi, rel=1e-4)
    assert states(2, "bf16") == pytest.approx((2 + 14 / n) * psi, rel=1e-4)
    assert states(3, "bf16") == pytest.approx(16 / n * psi + 2 * window, rel=1e-4)
    assert states(1, "fp32") == pytest.approx((8 + 12 / n) * psi, rel=1e-4)
    assert states(2, "fp32") == pytest.approx((4 + 16 / n) * psi, rel=1e-4)
    assert states(3, "fp32") == pytest.approx(16 / n * psi + 4 * window, rel=1e-4)
    assert states(0, "fp32") == 16 * psi


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_offloaded_states_are_elsewhere(tier):
    here = state_bytes(INVENTORY, Candidate(data=8, zero=3), "bf16")
    there = state_bytes(INVENTORY, Candidate(data=8, zero=3, offload=tier), "bf16")
    below = there.host if tier == "host" else there.disk
    assert there.device["optimizer"] == 0 and below["optimizer"] == here.device["optimizer"]
    assert sum(there.device.values()) < sum(here.device.values())
    assert there.host["gradients"] == here.device["gradients"]


def test_every_candidate_is_kept_with_reason_and_numbers():
    found = search(INVENTORY, WORK, TIGHT, 8, 32, "bf16")
    assert found.fits and found.rejected
    assert all(one.cost.memory <= TIGHT.memory for one in found.fits)
    assert all(one.reason and one.numbers for one in found.rejected)
    by_memory = [one for one in found.rejected if "over" in one.numbers]
    assert by_memory
    for one in by_memory:
        again = cost(INVENTORY, WORK, one.candidate, TIGHT, "bf16")
        assert one.numbers["over"] == one.numbers["needs"] - one.numbers["has"] > 0
        assert one.numbers["needs"] == again.memory
    said = reasons(found.rejected)
    assert sum(number for _, number, _ in said) == len(found.rejected)
    assert any("heads do not divide" in reason for reason, _, _ in said)


def test_the_front_is_what_nothing_beats():
    found = search(INVENTORY, WORK, V100, 8, 32, "bf16", space=Space(halvings=1))
    figures = [(o.cost.seconds_per_step, o.cost.memory, o.candidate.world) for o in found.pareto]
    everything = [(o.cost.seconds_per_step, o.cost.memory, o.candidate.world) for o in found.fits]
    assert {world for _, _, world in everything} == {4, 8}
    for one in figures:
        assert not any(o != one and all(a <= b for a, b in zip(o, one, strict=True)) for o in everything)
    for one in everything:
        assert any(all(a <= b for a, b in zip(f, one, strict=True)) for f in figures)
    assert found.best() is found.fits[0]
    assert not found.best(runs=True).candidate.missing()


def test_nothing_fits_is_said_with_the_nearest():
    tiny = V100.replace(memory=V100.reserved + 2**20)
    found = search(INVENTORY, WORK, tiny, 8, 32, "bf16")
    assert not found.fits
    with pytest.raises(PlanError, match="no plan fits; the nearest is plan.data="):
        found.best()


def test_tensor_parallelism_within_a_node_for_turing_nlg():
    """The announcement cut the model over 4 GPUs of 256; the search comes to the same degree."""
    megatron = Space(pipeline=(1,), sequence=(1,))
    shape = inventory_of(TURING_NLG), work_of(TURING_NLG, 1024)
    found = search(*shape, V100, 256, 512, "bf16", space=megatron)
    assert found.best().candidate.tensor == 4
    assert not found.best(runs=True).candidate.missing()
    alone = (one for one in found.fits if one.candidate.data == 256)
    assert next(alone).candidate.zero == 3
    replicated = [r for r in found.rejected if r.candidate.world == 256 and r.candidate.data == 256]
    assert any(r.candidate.zero == 0 and r.numbers.get("needs", 0) > 16 * 17e9 for r in replicated)


def test_candidates_that_run_become_plans():
    plan = Candidate(data=4, zero=2, kept="input").plan()
    assert plan is not None and (plan.data, plan.zero, plan.remat) == (4, 2, True)
    assert Candidate.of(plan, 2, 3) == Candidate(data=4, zero=2, kept="input", micro_rows=2, accumulation=3)
    later = Candidate(data=2, tensor=2, kept="selective")
    assert later.world == 4 and later.plan() is None and "selective recomputation" in later.missing()


def test_a_pipeline_waits_and_shares():
    one = cost(INVENTORY, WORK, Candidate(data=2, micro_rows=1, accumulation=16), V100, "bf16")
    two = Candidate(data=1, pipeline=2, micro_rows=1, accumulation=32)
    other = cost(INVENTORY, WORK, two, V100, "bf16")
    mine = other.seconds["matrix products"] + other.seconds["other compute"]
    all_of_it = one.seconds["matrix products"] + one.seconds["other compute"]  # of half the rows
    assert other.seconds["pipeline bubble"] == pytest.approx((2 * all_of_it - mine) / 32)
    assert mine > all_of_it  # the head makes the last stage the slowest
    assert other.device_bytes["parameters"] < one.device_bytes["parameters"]


def test_what_objectives_own_is_counted():
    plain = [False] * 64
    words = Vocabulary(*map(__import__("numpy").array, (plain, plain, plain)), 0, 0, 0)
    config = gpt2(32, 2, 2, vocab_size=64, max_positions=32, head="replaced")
    found = ReplacedConfig()
    both = inventory_of(config, build(found, words))
    alone = inventory_of(config)
    assert both.total > alone.total and len(both.blocks) == 3
    work = work_of(config, 32, found)
    assert len(work.passes) == 2 and work.flops() > work_of(config, 32, 1.0).flops()

    config = gpt2(32, 2, 2, vocab_size=64, max_positions=32)
    contrast = ContrastConfig(layer=1, queue=128)
    slow = inventory_of(config, build(contrast, words))
    network, projection = inventory_of(config).total, 32 * 32
    assert slow.total == 2 * (network + projection)
    assert slow.trainable == network + projection
    assert slow.buffers >= 128 * 32 * 4
    states = state_bytes(slow, Candidate(data=1), "fp32").device
    assert states["parameters"] == 4 * slow.total and states["optimizer"] == 8 * slow.trainable
    assert states["buffers"] == slow.buffers
    assert [p.backward for p in work_of(config, 32, contrast).passes] == [True, True, False]


def test_devices_are_data(tmp_path):
    known = devices()
    assert {"v100-32g", "a100-80g", "h100-80g", "h200"} <= set(known)
    assert all(d.sources and d.flops["fp32"] > 1e12 and d.memory > 2**34 for d in known.values())
    assert known["v100-32g"].rate("bf16") == known["v100-32g"].flops["fp16"]
    more = tmp_path / "more.toml"
    more.write_text(
        "[mine]\nflops = { fp32 = 1e13 }\nmemory = 1_000_000_000\nmemory_bandwidth = 1e11\n"
        "link_bandwidth = 1e10\nnetwork_bandwidth = 1e9\n"
    )
    mine = device("mine", more)
    assert mine.rate("bf16") == 1e13 and mine.bandwidth(8) == 1e10 and mine.bandwidth(16) == 1e9
    with pytest.raises(ConfigError, match="h100-80g"):
        device("h100-80")
    more.write_text("[mine]\nmemory = 1\n")
    with pytest.raises(ConfigError, match="mine"):
        device("mine", more)


def test_measured_rates_lie_between_the_measured_widths():
    measured = V100.replace(gemm={"fp32": ((128.0, 1e10), (512.0, 4e10))})
    assert measured.product_rate("fp32", 64) == 1e10
    assert measured.product_rate("fp32", 256) == pytest.approx(2e10)
    assert measured.product_rate("fp32", 4096) == 4e10
    assert measured.product_rate("bf16", 256) == 125e12 * V100.efficiency
    timed = V100.replace(collectives={"all_gather": (0.5, 100.0)})
    assert timed.collective("all_gather", 200.0, 2) == 2.5
    assert timed.collective("all_gather", 200.0, 1) == 0.0


def test_experts_are_held_by_all_and_met_by_few():
    config = gpt2(32, 2, 2, vocab_size=64, max_positions=32, experts={"count": 4, "top_k": 2})
    inventory = inventory_of(config)
    of_experts = [part for unit in inventory.units for part in unit.parts if part.expert]
    matrices = sum(part.numel for part in of_experts if len(part.shape) == 3)
    assert matrices == 4 * 2 * 32 * 128
    layer = 4 * 32 * 32 + 2 * 32 * 128
    assert count_parameters(config).matrix == 2 * layer - 2 * 32 * 128 + matrices // 2 + 4 * 32
    spread = inventory.units[-1].elements(expert=4)
    assert inventory.units[-1].numel - spread == 3 / 4 * sum(part.numel for part in of_experts)
    found = search(inventory, work_of(config, 32), V100, 4, 16, space=Space(expert=(1, 4), tensor=(1,)))
    assert {one.candidate.expert for one in found.fits} == {1, 4}
