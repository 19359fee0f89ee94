"""What a plan costs: the papers' formulas, what adds up, what fits and what is refused."""

import json

import pytest

from mainspring.errors import ConfigError, PlanError
from mainspring.nn import TransformerConfig
from mainspring.parallel import Plan
from mainspring.planner import Estimate, Machine, count_parameters, estimate, prepare
from mainspring.planner.units import amount, duration

CONFIG = TransformerConfig(d_model=256, n_heads=4, n_layers=6, d_ff=1024, vocab_size=4096, max_positions=128)
MACHINE = Machine(
    flops_fp32=5e10,
    flops_bf16=2e11,
    memory_bandwidth=1e10,
    link_bandwidth=2e9,
    memory=8 * 2**30,
    cores=8,
    threads=2,
    ranks=4,
)
PSI = count_parameters(CONFIG).total


def ready(tokens, plan=None, machine=MACHINE):
    return prepare(
        CONFIG, plan or Plan(data=4), batch_tokens=tokens, seq_len=128, precision="fp32", machine=machine
    )


def cost(plan, precision="fp32", *, micro=2, rows=8, machine=MACHINE, **options):
    return estimate(
        CONFIG,
        plan,
        micro_rows=micro,
        rows_per_rank=rows,
        seq_len=128,
        precision=precision,
        machine=machine,
        **options,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_sums_add_up(zero, precision):
    found = cost(Plan(data=4, zero=zero), precision)
    assert sum(found.bytes_by_kind.values()) == found.bytes_per_rank
    assert sum(found.seconds_by_kind.values()) == pytest.approx(found.seconds_per_step)
    assert found.tokens_per_step == 4 * 8 * 128 and found.accumulation == 4
    assert found.memory_per_rank == MACHINE.memory // 4
    assert found.tokens_per_second == pytest.approx(found.tokens_per_step / found.seconds_per_step)


def test_states_between_steps_follow_the_zero_paper():
    """fp32 master, gradient and two moments: 16 psi, then shares of it (arXiv 1910.02054, section 5)."""
    one, two, three = (cost(Plan(data=4, zero=z)).bytes_by_kind for z in (1, 2, 3))
    none = cost(Plan(data=4)).bytes_by_kind
    assert none["parameters"] + none["gradients"] + none["optimizer"] == 16 * PSI
    for found in (one, two, three):  # every dimension divides by 4: no padding
        assert found["optimizer"] == 8 * PSI / 4
    assert two["parameters"] == 4 * PSI / 4 + 4 * PSI
    assert one["gradients"] == 4 * PSI
    assert two["gradients"] == 4 * PSI / 4
    assert two["gradients"] < one["gradients"] and three["parameters"] < two["parameters"]


def test_traffic_follows_the_zero_paper():
    part = 3 / 4
    layers = PSI - count_parameters(CONFIG).root
    assert cost(Plan(data=4)).traffic_per_step == 2 * part * 4 * PSI
    assert cost(Plan(data=4, zero=1)).traffic_per_step == 2 * part * 4 * PSI
    assert cost(Plan(data=4, zero=2), micro=8).traffic_per_step == 2 * part * 4 * PSI
    assert cost(Plan(data=4, zero=2), micro=2).traffic_per_step == (4 + 1) * part * 4 * PSI
    assert cost(Plan(data=4, zero=3), micro=8).traffic_per_step == part * 4 * (2 * PSI + layers)
    assert cost(Plan()).traffic_per_step == 0


def test_flops_follow_the_published_formula():
    """72 B s L h^2 (1 + s/(6h) + V/(12 L h)) for an iteration (Narayanan et al. 2021, arXiv 2104.04473,
    appendix); with full recomputation 96 B s L h^2 (1 + s/(6h) + V/(16 L h))."""
    h, layers, s, v = 256, 6, 128, 4096
    found = cost(Plan(data=4))
    want = 72 * found.tokens_per_step * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert found.flops_per_step == pytest.approx(want)
    again = cost(Plan(data=4, remat=True))
    want = 96 * found.tokens_per_step * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert again.flops_done_per_step == pytest.approx(want)
    assert again.flops_per_step == found.flops_per_step
    assert again.bytes_by_kind["activations"] < found.bytes_by_kind["activations"] / 3


def test_masked_language_models_predict_few_tokens():
    all_tokens, few = cost(Plan()), cost(Plan(), predicted=0.15)
    assert few.flops_per_token < all_tokens.flops_per_token
    assert few.bytes_by_kind["buffers"] < all_tokens.bytes_by_kind["buffers"]


def test_it_is_a_value():
    found = cost(Plan(data=4, zero=3), "bf16")
    assert Estimate.model_validate_json(json.dumps(found.model_dump(mode="json"))) == found
    table = dict(found.table())
    assert table["parameters"] == "5.82 M" and "tokens per second" in table
    assert all(isinstance(value, str) for value in table.values())


def test_the_batch_is_cut_to_what_fits():
    roomy = ready(4 * 128 * 128)
    assert roomy.batch.micro_rows == 32  # 4096 tokens
    least = ready(4 * 128)
    tight = MACHINE.replace(memory=4 * (least.estimate.bytes_per_rank + 40 * 2**20))
    cut = ready(4 * 128 * 128, machine=tight)
    assert 1 <= cut.batch.micro_rows < 32
    assert cut.estimate.fits and cut.estimate.accumulation == 128 // cut.batch.micro_rows


def test_what_does_not_fit_is_refused_with_a_plan_that_does():
    needed = ready(512)
    small = MACHINE.replace(memory=4 * (needed.estimate.bytes_per_rank - 10 * 2**20))
    with pytest.raises(PlanError, match=r"optimizer 44\.4 MiB.* this would fit, in .*: plan\.zero=[123]"):
        ready(512, machine=small)
    ready(512, Plan(data=4, zero=2), small)
    tiny = MACHINE.replace(memory=4 * 2**20)
    with pytest.raises(PlanError, match="no ZeRO stage on these ranks fits"):
        ready(512, machine=tiny)


def test_a_batch_that_cannot_be_cut_is_told_before_memory():
    with pytest.raises(ConfigError, match=r"train\.batch_tokens = 500"):
        ready(500, machine=MACHINE.replace(memory=1))


def test_numbers_for_people():
    assert [amount(n) for n in (0, 999, 1000, 999_600)] == ["0", "999", "1.00 k", "1.00 M"]
    assert [amount(n, "B") for n in (1023, 1024, 2**30)] == ["1023 B", "1.00 KiB", "1.00 GiB"]
    assert [duration(s) for s in (2e-6, 0.5, 59.7, 3600)] == ["2 us", "500 ms", "59.7 s", "1 h 0 min"]


def test_one_rank_that_lacks_memory_is_told_of_the_disk():
    wide = TransformerConfig(
        d_model=1536, n_heads=16, n_layers=24, d_ff=6144, vocab_size=4096, max_positions=128
    )
    options = {"batch_tokens": 512, "seq_len": 128, "precision": "bf16"}
    machine = MACHINE.replace(memory=4 * 2**30)
    with pytest.raises(PlanError, match=r"plan\.offload=disk plan\.offload_folder=offload"):
        prepare(wide, Plan(), machine=machine, **options)
    plan = Plan(zero=3, remat=True, offload="disk", offload_folder="offload")
    found = prepare(wide, plan, machine=machine, **options).estimate
    assert found.fits and found.disk_by_kind["optimizer"] == 8 * found.parameters.total
