"""What a user's loop may do to a model on flat shards: every scenario ends as in one process."""

import copy
import gc
import time
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mainspring import comm, parallel
from mainspring.errors import CollectiveError, PlanError
from mainspring.nn.span import logical_shape
from mainspring.optim import FlatAdam
from mainspring.parallel import Plan
from mainspring.parallel.strategy import strategy_of
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

WIDTH, VOCAB = 6, 11
STAGES = (1, 2, 3)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 10)
        self.down = nn.Linear(10, WIDTH, bias=False)

    def forward(self, x):
        return {"x": x + self.down(torch.tanh(self.up(self.norm(x)))), "kept": None}


class Toy(nn.Module):
    """Blocks that can be skipped, repeated and recomputed, a recurrent layer, and a tied head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)
        self.head.weight = self.embed.weight
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("shift", torch.linspace(-1, 1, WIDTH))

    def forward(self, ids, order=(0, 1, 2, 3), reentrant=None, every=1):
        x = self.embed(ids) + self.shift
        for start in range(0, len(order), every):

            def run(x, chosen=order[start : start + every]):
                for index in chosen:
                    x = self.blocks[index](x)["x"]
                return x

            x = run(x) if reentrant is None else checkpoint(run, x, use_reentrant=reentrant)
        x = x + self.lstm(x)[0]
        return self.head(x * self.gain)


def loss_of(model, rank, seed, **options):
    ids = torch.randint(VOCAB, (3, 5), generator=torch.Generator().manual_seed(10 * seed + rank))
    logits = model(ids, **options)
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


def plain(model, rank, seed, part):
    (loss_of(model, rank, seed) * part).backward()


def skip_on_one_rank(model, rank, seed, part):
    (loss_of(model, rank, seed, order=(0, 1, 2, 3) if rank == 0 else (0, 3)) * part).backward()


def skip_the_last_and_all(model, rank, seed, part):
    (loss_of(model, rank, seed, order=(0,) if rank == 0 else ()) * part).backward()


def skip_everywhere(model, rank, seed, part):
    (loss_of(model, rank, seed, order=(0, 2)) * part).backward()


def again_and_backwards(model, rank, seed, part):
    (loss_of(model, rank, seed, order=(3, 1, 1, 0, 3)) * part).backward()


def recomputed(model, rank, seed, part):
    (loss_of(model, rank, seed, reentrant=False) * part).backward()


def recomputed_reentrant(model, rank, seed, part):
    (loss_of(model, rank, seed, reentrant=True, order=(0, 1, 2, 3, 3)) * part).backward()


def recomputed_in_pairs(model, rank, seed, part):
    (loss_of(model, rank, seed, reentrant=bool(seed % 2), every=2) * part).backward()


def two_forwards(model, rank, seed, part):
    ((loss_of(model, rank, seed) + loss_of(model, rank, seed + 5)) * part).backward()


def two_losses(model, rank, seed, part):
    first, second = loss_of(model, rank, seed), loss_of(model, rank, seed + 5)
    (first * part).backward()
    (second * part).backward()


def backward_twice(model, rank, seed, part):
    loss = loss_of(model, rank, seed) * part
    loss.backward(retain_graph=True)
    loss.backward()


def forward_only(model, rank, seed, part):
    loss_of(model, rank, seed + 5)
    with torch.no_grad():
        loss_of(model, rank, seed + 6)
    plain(model, rank, seed, part)


def evaluation_between(model, rank, seed, part):
    loss = loss_of(model, rank, seed) * part
    with torch.no_grad():
        loss_of(model, rank, seed + 5)
    loss.backward()


def frozen_and_thawed(model, rank, seed, part):
    model.blocks[1].requires_grad_(seed != 0)
    model.head.bias.requires_grad_(seed == 1)
    plain(model, rank, seed, part)


def after_an_error(model, rank, seed, part):
    with pytest.raises(IndexError):
        loss_of(model, rank, seed, order=(0, 1, 7))
    loss = loss_of(model, rank, seed)
    loss.register_hook(lambda gradient: (_ for _ in ()).throw(ArithmeticError("here")))
    with pytest.raises(ArithmeticError):
        loss.backward()
    plain(model, rank, seed, part)


def changed_by_hand(model, rank, seed, part):
    plain(model, rank, seed, part)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    parallel.settle(model)


def another_term(model, rank, seed, part):
    """A penalty on the parameters themselves, outside the model."""
    plain(model, rank, seed, part)
    penalty = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
    if isinstance(penalty, torch.Tensor):
        share = 1 if parallel.shards(model) else part  # each piece is on one rank alone
        (0.01 * penalty * share).backward()


SCENARIOS = [
    plain,
    skip_on_one_rank,
    skip_the_last_and_all,
    skip_everywhere,
    again_and_backwards,
    recomputed,
    recomputed_reentrant,
    recomputed_in_pairs,
    two_forwards,
    two_losses,
    backward_twice,
    forward_only,
    evaluation_between,
    frozen_and_thawed,
    after_an_error,
    changed_by_hand,
    another_term,
]


def fresh():
    torch.manual_seed(4)
    return Toy()


def optimizers(model):
    """Two, of three groups; the second's gradients are cleared late."""
    named = dict(model.named_parameters())
    blocks = [p for name, p in named.items() if name.startswith("blocks")]
    rest = [p for name, p in named.items() if not name.startswith("blocks")]
    adam = torch.optim.AdamW(
        [{"params": blocks[::2], "lr": 0.02}, {"params": blocks[1::2], "weight_decay": 0.3}],
        lr=0.01,
        eps=1e-3,
        fused=True,
    )
    return [adam, torch.optim.SGD(rest, lr=0.1, momentum=0.9)]


def train(model, scenario, ranks):
    steps = optimizers(model)
    for seed in range(3):
        for rank in ranks:
            if scenario is changed_by_hand and rank != ranks[-1]:
                plain(model, rank, seed, 1 / 2)
            else:
                scenario(model, rank, seed, 1 / 2)
        for number, optimizer in enumerate(steps):
            optimizer.step()
            if number == 0 or seed != 1:
                optimizer.zero_grad()


def difference(got, want):
    assert got.keys() == want.keys()
    return max(float((got[name] - want[name]).abs().max()) for name in want)


def scenarios(rank, world, shared):
    if not shared:
        comm.shared.disable(reason="the test is of the other way")
    wrong = []
    for scenario in SCENARIOS:
        reference = fresh()
        train(reference, scenario, range(world))
        for zero in STAGES:
            model = fresh() if rank == 0 else Toy()
            parallel.apply(model, Plan(data=world, zero=zero), reduce="sum")
            train(model, scenario, [rank])
            error = difference(parallel.full_state(model, rank0_only=False), reference.state_dict())
            if not error < 2e-5:
                wrong.append((scenario.__name__, zero, error))
    return wrong


@pytest.mark.parametrize("shared", [True, False])
def test_a_users_loop_ends_as_in_one_process(shared):
    for found in run_ranks(scenarios, 2, shared):
        assert not found


def states(rank, world):
    wrong = []
    for zero in STAGES:
        reference = fresh()
        model = parallel.apply(fresh(), Plan(data=world, zero=zero))
        want = reference.state_dict()
        for attempt in (model.state_dict, model.blocks[0].state_dict):
            with pytest.raises(PlanError, match="full_state"):
                attempt()
        found = parallel.full_state(model)
        if (list(found) if rank == 0 else found) != (list(want) if rank == 0 else {}):
            wrong.append((zero, "names"))
        if rank == 0 and difference(found, want):
            wrong.append((zero, "values"))
        pieces = parallel.sharded_state(model)
        for name, parameter in reference.named_parameters():
            span = pieces[name].span
            if not torch.equal(pieces[name], parameter.detach().flatten()[span.start : span.stop]):
                wrong.append((zero, name))
        if sum(shard.numel for shard in parallel.shards(model)) - sum(
            piece.numel() for name, piece in pieces.items() if name != "shift"
        ) > len(parallel.shards(model)):
            wrong.append((zero, "padding"))

        other = {name: value + 1 for name, value in want.items()}
        model.load_state_dict(other)
        if difference(parallel.full_state(model, rank0_only=False), other):
            wrong.append((zero, "loading"))
        with pytest.raises(PlanError, match="shape"):
            model.load_state_dict(other | {"gain": torch.ones(2)})
        with pytest.raises(PlanError, match="assign"):
            model.load_state_dict(other, assign=True)

        loss_of(model, rank, 1).backward()
        twin = copy.deepcopy(model)
        if difference(twin.state_dict(), other) or twin.head.weight is not twin.embed.weight:
            wrong.append((zero, "copy"))
        if {logical_shape(p) for p in model.parameters()} != {p.shape for p in twin.parameters()}:
            wrong.append((zero, "shapes of the copy"))
        reference.load_state_dict(other)
        if not torch.equal(loss_of(twin, 0, 2), loss_of(reference, 0, 2)):
            wrong.append((zero, "the copy's forward"))
    return wrong


def test_states_are_whole_or_refused():
    assert run_ranks(states, 2) == [[], []]


def stale(rank, world, width):
    found = []
    for zero in STAGES:
        model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 3))
        parallel.apply(model, Plan(data=world, zero=zero))
        held = []
        model[0].register_forward_pre_hook(lambda m, a, held=held: held.extend(m.parameters()))
        model(torch.ones(2, width)).sum().backward()
        gathered = [tuple(p.shape) for p in held]
        found.append((gathered, [float(p.abs().sum()) for p in held], "0." in str(held)))
    return found


@pytest.mark.parametrize("width", [4, 40])  # less than a page, and pages
def test_a_parameter_kept_past_its_use_reads_as_zeros(width):
    for found in run_ranks(stale, 2, width):
        assert found == [([(width, width), (width,)], [0.0, 0.0], True)] * len(STAGES)


def gone(rank, world, folder):
    left = []
    for case in ("bf16", "fp16", "host", "delayed", "disk"):
        tier = {
            "host": {"offload": "host"},
            "delayed": {"offload": "host", "offload_delay": 0},
            "disk": {"offload": "disk", "offload_folder": folder},
        }.get(case, {})
        for zero in STAGES:
            precision = "fp16" if case == "fp16" else "bf16"
            model = parallel.apply(fresh(), Plan(data=world, zero=zero, **tier), precision=precision)
            steps = optimizers(model) if not tier else [FlatAdam(model.parameters())]
            for seed in range(2):
                plain(model, rank, seed, 1)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer in steps:
                    optimizer.step()
            seen = [
                weakref.ref(model),
                weakref.ref(model.blocks[0].up.weight),
                weakref.ref(strategy_of(model)),
                weakref.ref(strategy_of(model).placement),
            ]
            del model, steps, optimizer
            for _ in range(100):  # threads of a tier end what they are doing
                gc.collect()
                alive = [(case, zero, number) for number, one in enumerate(seen) if one() is not None]
                if not alive:
                    break
                time.sleep(0.02)
            left += alive
    dist.barrier()
    return left, [path.name for path in Path(folder).iterdir()]


def test_a_model_that_is_let_go_is_freed(tmp_path):
    """With its tier, whose files go too; gradients are left on it."""
    assert run_ranks(gone, 2, str(tmp_path)) == [([], [])] * 2


def different(rank, world):
    plan = Plan(data=world, zero=2, debug_collectives=True, collective_timeout=20)
    model = parallel.apply(fresh(), plan)
    loss = loss_of(model, 0, 0)
    try:
        if rank == 0:
            loss.backward()
        else:
            comm.all_reduce(torch.ones(1), name="my own", group=strategy_of(model).group)
    except CollectiveError as error:
        return str(error)
    return "no error"


def test_in_debug_mode_the_first_difference_is_named():
    first, second = run_ranks(different, 2)
    assert first == second and "'reduce blocks.3'" in first and "'my own'" in first
    assert "rank 0" in first and "rank 1" in first


def late(rank, world):
    model = parallel.apply(fresh(), Plan(data=world, zero=2, collective_timeout=0.5))
    loss = loss_of(model, 0, 0)
    if rank == 1:
        time.sleep(1.5)
        return ""
    try:
        loss.backward()
    except CollectiveError as error:
        return str(error)
    return "no error"


def test_a_late_rank_is_named_within_the_plans_time_out():
    text = run_ranks(late, 2)[0]
    assert "rank 1 is late" in text and "0.5 s" in text and "last operation" in text
