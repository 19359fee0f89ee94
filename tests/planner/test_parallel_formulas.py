"""Bytes, traffic and waiting of tensor, sequence, pipeline and expert plans beside closed forms."""

import pytest

from mainspring.errors import PlanError
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import TransformerConfig
from mainspring.parallel import Plan
from mainspring.planner import Candidate, Space, cost, device, inventory_of, prepare, search, work_of
from mainspring.planner.activations import kept_bytes
from mainspring.planner.schedule import bubble, in_flight
from mainspring.planner.states import state_bytes

H, L, S, V = 256, 8, 128, 1000
CONFIG = gpt2(H, L, 4, vocab_size=V, max_positions=S)
INVENTORY, WORK = inventory_of(CONFIG), work_of(CONFIG, S)
V100 = device("v100-32g")
SPARSE = gpt2(H, L, 4, vocab_size=V, max_positions=S, experts={"count": 8, "top_k": 2})


def costs(candidate, inventory=INVENTORY, work=WORK):
    return cost(inventory, work, candidate, V100, "bf16")


def layer(t):
    """Elements of a layer on one of t ranks: products cut, biases after a sum and norms whole."""
    return (12 * H * H + 7 * H) // t + 6 * H


@pytest.mark.parametrize("t", [1, 2, 4])
def test_tensor_ranks_have_their_part_of_products_and_of_the_vocabulary(t):
    states = state_bytes(INVENTORY, Candidate(data=1, tensor=t), "fp32").device
    mine = V // t * H + S * H + 2 * H + L * layer(t)
    assert states["parameters"] == 4 * mine and states["optimizer"] == 8 * mine


@pytest.mark.parametrize("chunks", [1, 2])
def test_stages_have_their_layers_and_the_first_has_the_tables(chunks):
    p, t = 4, 2
    stages = INVENTORY.stages(p, chunks)
    assert sum(stage.elements(1, 1) for stage in stages) == INVENTORY.total
    assert sum(stage.blocks for stage in stages) == L
    first, *middle, last = (stage.elements(t, 1) for stage in stages)
    assert first == V // t * H + S * H + stages[0].blocks * layer(t)
    assert middle == [stage.blocks * layer(t) for stage in stages[1:-1]]
    assert last == 2 * H + stages[-1].blocks * layer(t)
    # The tied table stays with the first stage; the last borrows it.
    assert [stage.borrowed.elements(tensor=t) for stage in stages] == [0, 0, 0, V // t * H]


def test_states_of_three_dimensions_and_zero():
    """Narayanan et al. 2021: psi / (t p) a rank, its optimizer over d."""
    big = gpt2(4096, 32, 32, vocab_size=51200, max_positions=2048)
    inventory = inventory_of(big)
    t, p, d = 4, 8, 4
    one = Candidate(data=d, tensor=t, pipeline=p, zero=1, accumulation=32)
    states = state_bytes(inventory, one, "bf16", stage=3).device
    psi = inventory.total - inventory.root.numel
    assert states["optimizer"] == pytest.approx(8 * psi / (t * p * d), rel=0.01)
    assert states["parameters"] == pytest.approx((2 + 4 / d) * psi / (t * p), rel=0.01)


def test_experts_are_spread_over_fewer_replicas():
    """Dense parameters over all N replicas, experts over the N / e that have the same ones."""
    inventory, n, e = inventory_of(SPARSE), 8, 4
    experts = sum(unit.elements(experts=True) for unit in inventory.units)
    dense = inventory.total - experts
    assert experts == L // 2 * 8 * (8 * H * H + 5 * H)
    states = state_bytes(inventory, Candidate(data=n, expert=e, zero=1), "bf16").device
    assert states["optimizer"] == pytest.approx(8 * (dense / n + experts / e / (n / e)), rel=1e-4)
    gathered = 2 * (dense + experts / e)
    masters = 4 * (dense / n + experts / n)
    assert states["parameters"] == pytest.approx(gathered + masters, rel=1e-4)
    alone = state_bytes(inventory, Candidate(data=n, expert=e), "fp32").device
    assert alone["optimizer"] == 8 * (dense + experts // e)


@pytest.mark.parametrize("t", [2, 4, 8])
def test_activations_of_tensor_ranks(t):
    """s b h (10 + 24/t), and 34/t where tokens are shared, without scores (arXiv 2205.05198, table 2)."""
    shape = TransformerConfig(
        d_model=4096, n_heads=32, d_ff=16384, n_layers=2, vocab_size=100, max_positions=64, dropout=0.1
    )

    def kept(**how):
        two = kept_bytes(shape, 64, "bf16", cuda=True, tensor=t, **how)
        one = kept_bytes(shape, 64, "bf16", cuda=True, tensor=t, blocks=1, **how)
        return (two - one) / 4096

    assert kept() == pytest.approx(10 + 24 / t, rel=0.01)
    assert kept(tensor_sequence=True) == pytest.approx(34 / t, rel=0.01)
    assert kept(kept="input") == pytest.approx(2, rel=0.01)
    assert kept(kept="input", tensor_sequence=True) == pytest.approx(2 / t, rel=0.01)


def test_micro_batches_in_flight():
    p, m = 8, 64
    assert [in_flight("1f1b", p, 1, m, i) for i in range(p)] == [p - i for i in range(p)]
    assert in_flight("1f1b", p, 1, 3, 0) == 3 and in_flight("gpipe", p, 1, m, 5) == m
    for v in (2, 4):
        assert in_flight("interleaved", p, v, m, 0) == pytest.approx(p * (1 + (p - 1) / (p * v)))
    assert in_flight("interleaved", p, 2, 2, 0) == 2
    for schedule in ("gpipe", "1f1b"):
        assert bubble(schedule, 1, m, (p - 1) * 1.0) == pytest.approx((p - 1) / m)
    assert bubble("interleaved", 4, m, p - 1.0) == pytest.approx((p - 1) / (4 * m))
    assert bubble("zero_bubble", 1, m, p - 1.0) == pytest.approx((p - 1) / (3 * m))


def test_the_schedule_decides_what_a_stage_keeps():
    def activations(schedule, chunks=1):
        one = Candidate(pipeline=4, schedule=schedule, chunks=chunks, accumulation=16)
        return costs(one).device_bytes["activations"]

    assert activations("gpipe") == pytest.approx(4 * activations("1f1b"), rel=1e-3)  # 16 against 4
    assert activations("interleaved", 2) == pytest.approx((1 + 3 / 8) * activations("1f1b"), rel=0.05)


def stream(micro_rows=1):
    return 2 * micro_rows * S * H


@pytest.mark.parametrize(
    ("place", "kept", "shared", "times"),
    [
        ("pre", "all", False, 4),
        ("pre", "all", True, 4),
        ("pre", "input", False, 5),
        ("pre", "input", True, 5.5),
        ("post", "input", False, 6),
        ("post", "input", True, 6),
    ],
)
def test_traffic_of_tensor_ranks(place, kept, shared, times):
    """All-reduces of b s h a layer, as tests/parallel/tensor/test_traffic.py counts them, two for the
    vocabulary, and as many gathers where tokens are shared."""
    t, m = 4, 3
    config = CONFIG.replace(norm_place=place)
    one = Candidate(tensor=t, tensor_sequence=shared, kept=kept, micro_rows=2, accumulation=m)
    found = costs(one, inventory_of(config), work_of(config, S))
    want = (times * L + 2 + shared) * m * 2 * (t - 1) / t * stream(2)
    assert found.traffic["node"] == pytest.approx(want) and found.traffic["network"] == 0


@pytest.mark.parametrize(("attention", "times"), [("heads", 8 * 3 / 4), ("ring", 8 * 3)])
def test_traffic_of_sequence_ranks(attention, times):
    n = 4
    found = costs(Candidate(sequence=n, attention=attention, micro_rows=2))
    states = 2 * (n - 1) / n * 4 * INVENTORY.total
    assert found.traffic["node"] - states == pytest.approx(times * L * stream(2) / n)


def test_traffic_between_stages():
    m = 8
    plain = costs(Candidate(pipeline=2, accumulation=m)).traffic["node"]
    assert plain == pytest.approx(2 * m * stream())
    chunked = Candidate(pipeline=2, schedule="interleaved", chunks=2, accumulation=m)
    assert costs(chunked).traffic["node"] == pytest.approx(2 * 2 * m * stream())
    far = costs(Candidate(data=16, pipeline=2, accumulation=m))
    assert far.traffic["network"] >= 2 * m * stream()  # pipelines go across nodes


def test_traffic_of_experts():
    """Four exchanges of k b s h a layer with experts, (e - 1)/e of it leaving; their gradients over N/e."""
    inventory, work, n, e, m = inventory_of(SPARSE), work_of(SPARSE, S), 8, 4, 2
    one = Candidate(data=n, expert=e, zero=1, accumulation=m)
    found = costs(one, inventory, work)
    experts = sum(unit.elements(experts=True) for unit in inventory.units)
    dense = inventory.total - experts
    moved = 4 * m * L / 2 * 2 * stream() * (e - 1) / e
    edp = n // e
    states = 4 * (
        (n - 1) / n * dense + (edp - 1) / edp * experts / e
    )  # psi scattered, psi gathered, in 16 bits
    assert sum(found.traffic.values()) == pytest.approx(moved + states, rel=1e-4)


def test_traffic_of_zero_on_cut_parameters():
    d, t, m = 4, 2, 3
    mine = INVENTORY.stages(1)[0].elements(t, 1)
    inside = (4 * L + 2) * m * 2 * (t - 1) / t * stream()
    for zero, volume in ((0, 8), (1, 4)):
        found = costs(Candidate(data=d, tensor=t, zero=zero, accumulation=m))
        assert sum(found.traffic.values()) - inside == pytest.approx(volume * (d - 1) / d * mine)


def test_every_way_to_spread_is_tried_or_refused_with_its_reason():
    found = search(inventory_of(SPARSE), work_of(SPARSE, S), V100, 16, 32, "bf16")
    tried = [one.candidate for one in (*found.fits, *found.rejected)]
    for field, values in {
        "tensor": {1, 2, 4, 8, 16},
        "pipeline": {1, 2, 4, 8, 16},
        "expert": {1, 2, 4, 8, 16},
        "sequence": {1, 2, 4, 8},
        "schedule": {"1f1b", "interleaved", "zero_bubble"},
        "attention": {"heads", "ring"},
        "tensor_sequence": {False, True},
    }.items():
        assert {getattr(one, field) for one in tried} >= values, field
    fits = {(c.tensor, c.pipeline, c.expert, c.sequence) for c in (one.candidate for one in found.fits)}
    assert {(1, 1, 8, 1), (4, 1, 1, 1), (1, 8, 1, 1), (1, 1, 1, 4), (2, 2, 2, 2)} <= fits
    reasons = " ".join({one.reason for one in found.rejected})
    for said in (
        "4 heads do not divide by tensor = 8",
        "8 layers are fewer than 16 stages",
        "expert = 16 does not divide data = 8",
        "layers of 8 experts do not divide by expert = 16",
        "zero = 2 under a pipeline",
        "zero_bubble enters a block once",
        "heads are fewer than tensor x sequence",
    ):
        assert said in reasons, said


def test_plans_of_candidates_say_the_same():
    whole = Candidate(
        data=4,
        tensor=2,
        tensor_sequence=True,
        pipeline=2,
        schedule="interleaved",
        chunks=2,
        sequence=2,
        attention="ring",
        zero=1,
    )
    plan = whole.plan()
    if plan is not None:  # None while `apply` lacks an axis
        assert plan.world == whole.world == 32
        assert Candidate.of(plan) == whole
    assert "plan.pipeline_schedule=interleaved plan.pipeline_chunks=2" in whole.overrides()
    assert "plan.tensor_sequence=true" in whole.overrides()


def test_a_tensor_part_that_is_all_the_model_has_is_refused_elsewhere():
    found = search(
        INVENTORY, WORK, V100, 8, 8, "bf16", space=Space(tensor=(8,), pipeline=(1,), sequence=(1,))
    )
    assert not found.fits and "4 heads do not divide by tensor = 8" in found.rejected[0].reason


def test_signs_cost_memory_for_what_is_owed_and_send_a_thirty_second():
    exact = {z: Candidate(data=4, zero=z) for z in (0, 1)}
    signs = {z: Candidate(data=4, zero=z, communication="compressed") for z in (0, 1)}
    psi = INVENTORY.total
    more = {z: state_bytes(INVENTORY, signs[z], "fp32").device["optimizer"] for z in (0, 1)}
    less = {z: state_bytes(INVENTORY, exact[z], "fp32").device["optimizer"] for z in (0, 1)}
    # The worker's debts, those of its chunk, and what momenta are divided by.
    assert more[0] - less[0] == 4 * psi + 4 * -(-psi // 4) + 4 * psi
    assert more[1] - less[1] == more[0] - less[0] + 4 * psi  # and the momenta of all
    sent = {
        name: sum(cost(INVENTORY, WORK, c, V100, "fp32").traffic.values())
        for name, c in {"exact": exact[0], "signs": signs[0], "shards": signs[1]}.items()
    }
    assert sent["exact"] == pytest.approx(32 * sent["signs"])
    assert sent["shards"] - sent["signs"] == pytest.approx(3 / 4 * 4 * psi)  # weights are gathered as ever
    low = Candidate(data=4, gradient_dtype="bf16")
    assert sum(cost(INVENTORY, WORK, low, V100, "fp32").traffic.values()) == pytest.approx(sent["exact"] / 2)
    for candidate in (*exact.values(), *signs.values(), low):
        assert Candidate.of(candidate.plan()) == candidate


def test_what_is_advised_reduces_as_shards_do():
    """A plan whose gradients travel in bf16 does not fit; the nearest that does has shards."""
    large = gpt2(2560, 32, 32, max_positions=S)
    plan = Plan(data=4, gradient_dtype="bf16")
    with pytest.raises(PlanError, match=r"plan\.zero=[123]"):
        prepare(large, plan, batch_tokens=4 * S, seq_len=S, precision="fp32", machine=V100)
