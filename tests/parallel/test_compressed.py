"""Optimizers that send signs on 2, 3 and 4 ranks do what one process does that plays all ranks, also after
they were taken up on another number of ranks; bytes are those of the messages; what cannot be is refused."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mainspring import optim, parallel
from mainspring.comm.compressed import even_chunks
from mainspring.errors import ConfigError, PlanError
from mainspring.numerics.signs import message_bytes
from mainspring.optim import OptimConfig
from mainspring.optim.onebit.zero_one import Policy
from mainspring.parallel import Plan
from mainspring.train import checkpoint
from support import onebit
from support.spawn import run_ranks

ROWS, STEPS, FREEZE = 24, 11, 4
LR, BETAS, EPS, DECAY = 0.05, (0.8, 0.95), 1e-4, 0.1
ONE_BIT = {"freeze_step": FREEZE, "var_update_scaler": 1, "local_step_scaler": 3, "local_step_clipper": 4}


def build():
    """103 parameters, one of which has never a gradient; nothing divides that."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def rows(step):
    x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step))
    x[:, 5] = 0.0  # of which `0.weight[:, 5]` learns nothing
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3].sin()], 1)


def settings(kind, sends="directions"):
    onebit = {**ONE_BIT, "sends": sends}
    return OptimConfig(kind=kind, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, onebit=onebit)


def what(step):
    """Of 0/1 Adam with these settings: the variance in steps 1, 2 and 4; then intervals of 1, 2 and 4."""
    policy = Policy(FREEZE, 1, 3, 4)
    if step <= FREEZE:
        return "variance" if policy.updates_variance(step) else "signs"
    return "meet" if policy.communicates(step) else "alone"


def simulator(kind, world, sends="directions"):
    model = build()
    sizes = [p.numel() for p in model.parameters()]
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    decay = [DECAY if p.ndim > 1 else 0.0 for p in model.parameters()]
    chunks = even_chunks(sizes, world)
    numbers = {"lr": LR, "betas": BETAS, "eps": EPS, "freeze": FREEZE, "directions": sends == "directions"}
    if kind == "onebit_lamb":
        return onebit.Lamb(start, sizes, decay, onebit.Mean([[sum(c)] for c in chunks]), **numbers)
    if kind == "zero_one_adam":
        mean = onebit.Mean(chunks)
        return onebit.ZeroOne(start, sizes, decay, mean, policy=what, world=world, **numbers)
    return onebit.Adam(start, sizes, decay, onebit.Mean(chunks), **numbers)


def moved_to(kind, before, world, sends):
    """A simulator goes on over another number of ranks: what is owed goes along, in one piece."""
    after = simulator(kind, world, sends)
    if kind == "zero_one_adam" and before.alone is not None:
        before.meet()
    owed = before.mean.owed
    for name, value in vars(before).items():
        if name not in ("mean", "world"):
            setattr(after, name, value)
    after.mean.server = list(owed.split(after.mean.sizes))
    return after


def play(simulated, world, first, last):
    """The simulator's steps: every rank's gradient by autograd in double precision."""
    model = build().double()
    for step in range(first, last):
        x, y = rows(step)
        gradients = []
        for rank in range(world):
            weights = simulated.weights
            nn.utils.vector_to_parameters(weights if weights.ndim == 1 else weights[rank], model.parameters())
            mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
            model.zero_grad()
            (model(x[mine].double()) - y[mine].double()).square().mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        simulated.step(torch.stack(gradients))


def weights_of(model):
    return torch.cat([t.flatten() for t in parallel.full_state(model, rank0_only=False).values()])


def train(model, optimizer, rank, world, first, last, reduce, accumulation=1):
    counter = parallel.traffic(model)
    wires = []
    for step in range(first, last):
        x, y = rows(step)
        mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        with counter.measure() as seen:
            for part in range(accumulation):
                some = [t[mine].chunk(accumulation)[part] for t in (x, y)]
                loss = (model(some[0]) - some[1]).square().sum() / (3 * ROWS)
                loss = loss if reduce == "sum" else loss * world
                if part < accumulation - 1:
                    with parallel.no_sync(model):
                        loss.backward()
                else:
                    loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wires.append(seen)
    return wires


def spread(kind, world, reduce, sends="directions", **plan):
    model = parallel.apply(build(), Plan(data=world, communication="compressed", **plan), reduce=reduce)
    return model, optim.build(model, settings(kind, sends), replicas=parallel.replicas(model))


SCENARIOS = [
    ("onebit_adam", {}, "mean", 1),
    ("onebit_adam", {}, "sum", 2),
    ("onebit_adam", {"zero": 1}, "sum", 2),
    ("onebit_adam", {"sends": "momenta"}, "mean", 1),
    ("onebit_lamb", {}, "sum", 1),
    ("onebit_lamb", {"zero": 1}, "mean", 1),
    ("zero_one_adam", {}, "sum", 1),
]


def label(kind, plan, reduce):
    return f"{kind}-{'-'.join(f'{k}{v}' for k, v in plan.items())}-{reduce}"


def ranks_and_one_process(rank, world, folder):
    went_on = []
    for kind, plan, reduce, accumulation in SCENARIOS:
        simulated = simulator(kind, world, plan.get("sends", "directions"))
        model, optimizer = spread(kind, world, reduce, **plan)
        sent = []
        for step in range(STEPS):
            sent += train(model, optimizer, rank, world, step, step + 1, reduce, accumulation)
            play(simulated, world, step, step + 1)
            mine = weights_of(model).double()
            want = simulated.weights if simulated.weights.ndim == 1 else simulated.weights[rank]
            message = f"{label(kind, plan, reduce)}, step {step + 1}"
            torch.testing.assert_close(mine, want, rtol=2e-4, atol=2e-5, msg=lambda m, w=message: f"{w}: {m}")
            if simulated.weights.ndim == 1 or simulated.alone is None:
                every = [torch.empty_like(mine) for _ in range(world)]
                dist.all_gather(every, mine)
                assert all(torch.equal(mine, other) for other in every), f"{message}: ranks differ"
        check_bytes(kind, plan, world, rank, sent)
        checkpoint.save(
            folder + "/" + label(kind, plan, reduce),
            STEPS,
            checkpoint.run_state(model, optimizer),
            {},
            group=dist.group.WORLD,
        )
        train(model, optimizer, rank, world, STEPS, STEPS + 4, reduce, accumulation)
        went_on.append(weights_of(model).tolist())
    return went_on


def check_bytes(kind, plan, world, rank, sent):
    """Exact reductions until the freeze, nothing but messages afterwards."""
    sizes = [p.numel() for p in build().parameters()]
    chunks = even_chunks(sizes, world)
    chunks = [[sum(c)] for c in chunks] if kind == "onebit_lamb" else chunks
    if plan.get("zero"):  # the padding of the last shard is a run
        each = -(-sum(sizes) // world)
        chunks = [c + [each - sum(c)] * (sum(c) < each) for c in chunks]
    lengths = [message_bytes(c) for c in chunks]
    message = sum(lengths) - lengths[rank] + (world - 1) * max(lengths)
    for step, seen in enumerate(sent, 1):
        exact = seen.wire("gradients") if kind != "zero_one_adam" or what(step) == "variance" else 0.0
        if kind != "zero_one_adam":
            assert (exact > 0) == (step <= FREEZE), (kind, step)
            assert seen.wire("momentum") == (message if step > FREEZE else 0), (kind, step)
        else:
            counted = {"variance": "gradients", "signs": "gradients", "meet": "momentum", "alone": None}
            name = counted[what(step)]
            if what(step) == "variance":
                assert seen.wire("gradients") > message
            else:
                assert seen.wire("gradients") == (message if name == "gradients" else 0), step
                assert seen.wire("momentum") == (message if name == "momentum" else 0), step


def goes_on(rank, world, before, folder):
    ends = []
    for kind, plan, reduce, accumulation in SCENARIOS:
        sends = plan.get("sends", "directions")
        simulated = simulator(kind, before, sends)
        play(simulated, before, 0, STEPS)
        simulated = moved_to(kind, simulated, world, sends)
        play(simulated, world, STEPS, STEPS + 4)
        model, optimizer = spread(kind, world, reduce, **plan)
        saved = checkpoint.latest(folder + "/" + label(kind, plan, reduce))
        checkpoint.load(saved, model, optimizer, group=dist.group.WORLD)
        train(model, optimizer, rank, world, STEPS, STEPS + 4, reduce, accumulation)
        want = simulated.weights if simulated.weights.ndim == 1 else simulated.weights[rank]
        name = label(kind, plan, reduce)
        torch.testing.assert_close(
            weights_of(model).double(), want, rtol=5e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        ends.append(weights_of(model).tolist())
    return ends


@pytest.mark.distributed
@pytest.mark.parametrize(("world", "after"), [(3, 2), (4, 4)])
def test_ranks_do_what_one_process_does_and_go_on_over_others(world, after, tmp_path):
    through = run_ranks(ranks_and_one_process, world, str(tmp_path))
    again = run_ranks(goes_on, after, world, str(tmp_path))
    if world == after:  # to the bit as if nothing had come between
        assert through[0] == again[0]


class Blocks(nn.Module):
    """Four like blocks, which are units of their own, around a table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def other_ways(rank, world):
    """Units, 16 bits, tensor ranks, clipping, a step left out."""
    # Shards of units: losses fall, and all ranks see the same model.
    for precision in ("fp32", "bf16"):
        model = parallel.apply(
            Blocks(), Plan(data=world, zero=1, communication="compressed"), reduce="sum", precision=precision
        )
        optimizer = optim.build(model, settings("onebit_adam"), replicas=parallel.replicas(model))
        before = loss_of(model)
        train(model, optimizer, rank, world, 0, 20, "sum", 2)
        assert loss_of(model) < 0.8 * before, precision
        same_everywhere(weights_of(model), world)

    # The norm of gradients that are not joined is the root mean square over ranks, which bounds the whole's.
    for zero in (0, 1):
        for reduce in ("sum", "mean"):
            model, optimizer = spread("onebit_adam", world, reduce, zero=zero)
            train(model, optimizer, rank, world, 0, FREEZE, reduce)
            start = weights_of(model).clone()
            x, y = rows(FREEZE)
            mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
            squares, whole = [], build()
            nn.utils.vector_to_parameters(start, whole.parameters())
            for other in range(world):
                whole.zero_grad()
                part = slice(other * ROWS // world, (other + 1) * ROWS // world)
                (whole(x[part]) - y[part]).square().mean().backward()
                squares.append(sum(float(p.grad.square().sum()) for p in whole.parameters()))
            want = (sum(squares) / world) ** 0.5
            loss = (model(x[mine]) - y[mine]).square()
            (loss.sum() / (3 * ROWS) if reduce == "sum" else loss.mean()).backward()
            assert parallel.clip_grad_norm(model, 0.0) == pytest.approx(want, rel=1e-4)
            assert parallel.clip_grad_norm(model, want / 4) == pytest.approx(want, rel=1e-4)
            assert parallel.clip_grad_norm(model, 0.0) == pytest.approx(want / 4, rel=1e-4)
            # A step that is left out leaves nothing behind.
            optimizer.zero_grad()
            loss = (model(x[mine]) - y[mine]).square()
            (loss.sum() / (3 * ROWS) if reduce == "sum" else loss.mean()).backward()
            assert parallel.clip_grad_norm(model, 0.0) == pytest.approx(want, rel=1e-4)

    check_settled(rank, world)

    # A coordinate that the caller masks stays where it is but for decay.
    model = parallel.apply(build(), Plan(data=world, communication="compressed"), reduce="sum")
    mask = torch.ones(3, 10)
    mask[1] = 0.0
    optimizer = masked(model, {model[2].weight: mask})
    train(model, optimizer, rank, world, 0, FREEZE, "sum")
    before = model[2].weight.detach().clone()
    train(model, optimizer, rank, world, FREEZE, STEPS, "sum")
    moved = model[2].weight.detach() != before
    assert moved[0].all() and moved[2].all() and not moved[1].any()

    # States without `error` are taken up with a word about what is dropped.
    state = optimizer.state_dict()
    model = parallel.apply(build(), Plan(data=world, communication="compressed"), reduce="sum")
    other = masked(model, {})
    other.load_state_dict(state)
    with pytest.warns(RuntimeWarning, match=r"103 elements.*is dropped"):
        train(model, other, rank, world, FREEZE, FREEZE + 1, "sum")


def check_settled(rank, world):
    """Shards and whole parameters find at the same step that the variance has settled."""
    found = []
    for zero in (0, 1):
        model = parallel.apply(build(), Plan(data=world, zero=zero, communication="compressed"), reduce="sum")
        config = settings("onebit_adam").replace(betas=(0.8, 0.75), onebit={"freeze_step": "settled"})
        optimizer = optim.build(model, config, replicas=parallel.replicas(model))
        at = next(
            n
            for n in range(200)
            if train(model, optimizer, rank, world, n, n + 1, "sum") and optimizer.frozen
        )
        found.append(at + 1)
    every = [None] * world
    dist.all_gather_object(every, found)
    assert found[0] == found[1] and found[0] % 4 == 0 and all(other == found for other in every), every


def masked(model, masks):
    settings = {"replicas": parallel.replicas(model), "freeze_step": FREEZE, "masks": masks}
    return optim.OneBitAdam(model.parameters(), LR, BETAS, EPS, 0.0, **settings)


def loss_of(model):
    total = 0.0
    with torch.no_grad():
        for step in range(4):
            x, y = rows(step)
            total += float((model(x).float() - y).square().mean())
    return total


def same_everywhere(mine, world):
    every = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(every, mine)
    assert all(torch.equal(mine, other) for other in every)


@pytest.mark.distributed
def test_units_clipping_masks_and_lost_debts():
    run_ranks(other_ways, 2)


def with_tensor_ranks(rank, world):
    """Each tensor rank's buffer by a simulator of its own; what both hold stays alike to the bit."""
    rules = {"0": "column", "2": "row"}
    index = rank % 2
    for zero in (0, 1):
        plan = Plan(data=2, tensor=2, zero=zero, communication="compressed")
        model = parallel.apply(build(), plan, reduce="sum", rules=rules)
        optimizer = optim.build(model, settings("onebit_adam"), replicas=parallel.replicas(model))
        whole = build().double()
        simulated = [tensor_simulator(whole, t, zero) for t in range(2)]
        for step in range(STEPS):
            x, y = rows(step)
            half = slice(rank // 2 * ROWS // 2, (rank // 2 + 1) * ROWS // 2)
            ((model(x[half]) - y[half]).square().sum() / (3 * ROWS)).backward()
            optimizer.step()
            optimizer.zero_grad()
            gradients = [[], []]
            join_tensor_parts(whole, simulated, zero)
            for data in range(2):
                half = slice(data * ROWS // 2, (data + 1) * ROWS // 2)
                whole.zero_grad()
                (whole(x[half].double()) - y[half].double()).square().mean().backward()
                for t in range(2):
                    gradients[t].append(tensor_part([p.grad for p in whole.parameters()], t, zero))
            for t in range(2):
                simulated[t].step(torch.stack(gradients[t]))
            join_tensor_parts(whole, simulated, zero)
            want = torch.cat([p.detach().flatten() for p in whole.parameters()])
            torch.testing.assert_close(weights_of(model).double(), want, rtol=2e-4, atol=2e-5)
        if zero == 0:
            shared = model[2].bias.detach()
            every = [torch.empty_like(shared) for _ in range(world)]
            dist.all_gather(every, shared)
            assert all(torch.equal(shared, other) for other in every)
    assert index == rank % 2


def alike_on_tensor_ranks(rank, world):
    """What tensor ranks both hold stays alike to the bit under every kind, and the loss falls."""
    for kind, zero in (("onebit_lamb", 0), ("onebit_lamb", 1), ("zero_one_adam", 0)):
        plan = Plan(data=2, tensor=2, zero=zero, communication="compressed")
        model = parallel.apply(build(), plan, reduce="sum", rules={"0": "column", "2": "row"})
        optimizer = optim.build(model, settings(kind), replicas=parallel.replicas(model))
        before = loss_of(model)
        for step in range(2 * STEPS):
            x, y = rows(step)
            half = slice(rank // 2 * ROWS // 2, (rank // 2 + 1) * ROWS // 2)
            ((model(x[half]) - y[half]).square().sum() / (3 * ROWS)).backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.settle()
        assert loss_of(model) < 0.9 * before, (kind, zero)
        every = [None] * world
        dist.all_gather_object(every, model[2].bias.tolist())  # with zero = 1 what a data rank has of it
        assert every[rank] == every[rank ^ 1], (kind, zero)


ORDER = ((3, 0, 1, 2), (0, 1, 2, 3))
"""Of the four parameters in the buffer: what is not cut first; in shards as the model has them."""


def tensor_part(tensors, t, zero):
    """What tensor rank t has of the parameters, in the order of its buffer."""
    parts = [tensors[0].chunk(2)[t], tensors[1].chunk(2)[t], tensors[2].chunk(2, dim=1)[t], tensors[3]]
    return torch.cat([parts[i].detach().flatten() for i in ORDER[zero]])


def tensor_simulator(whole, t, zero):
    sizes = [(30, 5, 15, 3)[i] for i in ORDER[zero]]
    decay = [(DECAY, 0.0, DECAY, 0.0)[i] for i in ORDER[zero]]
    start = tensor_part(list(whole.parameters()), t, zero)
    numbers = {"lr": LR, "betas": BETAS, "eps": EPS, "freeze": FREEZE}
    return onebit.Adam(start, sizes, decay, onebit.Mean(even_chunks(sizes, 2)), **numbers)


def join_tensor_parts(whole, simulated, zero):
    with torch.no_grad():
        found = []
        for one in simulated:
            parts = dict(zip(ORDER[zero], one.x.split(one.sizes), strict=True))
            found.append((parts[0].view(5, 6), parts[1], parts[2].view(3, 5), parts[3]))
        (a, b, c, d), (e, f, g, h) = found
        assert torch.equal(d, h)
        for p, value in zip(
            whole.parameters(), (torch.cat([a, e]), torch.cat([b, f]), torch.cat([c, g], 1), d), strict=True
        ):
            p.copy_(value)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ({"zero": 2}, "keeps a part of it"),
        ({"zero": 3}, "keeps a part of it"),
        ({"zero": 1, "backend": "fsdp2"}, "fully_shard always joins"),
        ({"zero": 1, "offload": "host"}, "keeps them elsewhere"),
        ({"data": 4, "expert": 2}, "joined over other ranks"),
        ({"pipeline": 2}, "the first and the last stage"),
        ({"communication": "adasum", "tensor": 2}, "a part of a layer or of a row"),
        ({"communication": "adasum", "zero": 1}, "steps a part of the weights"),
        ({"communication": "adasum", "gradient_dtype": "bf16"}, 'with communication = "adasum" none are'),
        ({"zero": 1, "gradient_dtype": "bf16"}, "with zero = 1 none are"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(plan, reason):
    from mainspring.config import parse

    with pytest.raises(ConfigError, match=reason):
        parse(Plan, {"data": 2, "communication": "compressed"} | plan)


def test_optimizer_and_communication_go_together():
    model = parallel.apply(build(), Plan(communication="compressed"))
    with pytest.raises(PlanError, match=r'set optim\.kind to "onebit_adam"'):
        optim.build(model, OptimConfig(), replicas=parallel.replicas(model))
    with pytest.raises(PlanError, match=r'set plan\.communication = "compressed"'):
        optim.build(build(), settings("onebit_adam"))
    with pytest.raises(PlanError, match=r"fp16.*use precision"):
        parallel.apply(build(), Plan(zero=1, communication="compressed"), precision="fp16")
    model = parallel.apply(build().double(), Plan(communication="compressed"))
    with pytest.raises(PlanError, match=r"0\.weight is float64"):
        parallel.replicas(model)


def test_one_process_sends_to_itself():
    """The frozen stage of one rank: Adam with its variance frozen and a quantised momentum."""
    for kind in ("onebit_adam", "onebit_lamb", "zero_one_adam"):
        model = parallel.apply(build(), Plan(communication="compressed"))
        optimizer = optim.build(model, settings(kind), replicas=parallel.replicas(model))
        simulated = simulator(kind, 1)
        for step in range(STEPS):
            x, y = rows(step)
            (model(x) - y).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        play(simulated, 1, 0, STEPS)
        want = simulated.weights if simulated.weights.ndim == 1 else simulated.weights[0]
        torch.testing.assert_close(weights_of(model).double(), want, rtol=2e-4, atol=2e-5)


def test_groups_that_differ_in_betas_are_refused():
    model = parallel.apply(build(), Plan(communication="compressed"))
    first, *rest = model.parameters()
    optimizer = optim.OneBitAdam(
        [{"params": [first], "betas": (0.5, 0.9)}, {"params": rest}],
        replicas=parallel.replicas(model),
        freeze_step=1,
    )
    model(rows(0)[0]).sum().backward()
    with pytest.raises(ValueError, match=r"groups differ in betas"):
        optimizer.step()


def test_which_steps_update_the_variance_and_which_communicate():
    """Against counters that are stepped, as the original has them."""
    policy = Policy(500, var_update_scaler=3, local_step_scaler=10, local_step_clipper=8)
    interval, updates, since, doubled, counted = 1, 0, 0, 1, 0
    for step in range(1, 600):
        updated = step <= 500 and step % interval == 0
        updates += updated
        since += updated
        if since == 3:
            since, interval = 0, 2 * interval
        assert policy.updates_variance(step) == updated, step
        assert policy.variance_updates(step) == updates, step
        if step > 500:
            assert policy.communicates(step) == (step % doubled == 0), step
            counted += 1
            if counted == 10:
                counted, doubled = 0, min(8, 2 * doubled)


MESHES = [
    {"sequence": 2},
    {"sequence": 2, "zero": 1},
    {"tensor": 2},
    {"tensor": 2, "zero": 1, "tensor_sequence": True},
]


def own_gradients(rank, world):
    """The mean over replicas of what each rank has is the gradient of the whole batch, on every mesh."""
    from mainspring.data.batch import causal_batch
    from mainspring.models.gpt2.config import gpt2
    from mainspring.nn import Transformer, initialize
    from mainspring.nn.span import cut_of, span_of
    from mainspring.objectives.base import labelled_loss
    from mainspring.parallel.sequence import split_tokens

    config = gpt2(16, 2, 4, vocab_size=24, max_positions=16)
    ids = torch.randint(24, (4, 16), generator=torch.Generator().manual_seed(0))
    whole = initialize(Transformer(config), 0)
    labelled_loss(whole, causal_batch(ids, labels=ids)).backward()
    wanted = {name: p.grad for name, p in whole.named_parameters()}
    for fields in MESHES:
        plan = Plan(data=2, communication="compressed", **fields)
        model = parallel.apply(initialize(Transformer(config), 0), plan, reduce="sum")
        ranks, axes = parallel.replicas(model), parallel.axes_of(model)
        ranks.follow(lambda: False)
        mine = ids[2 * axes.index("data") : 2 * axes.index("data") + 2]
        batch = causal_batch(mine, labels=mine)
        if plan.sequence > 1:
            batch = split_tokens(batch, axes.index("sequence"), plan.sequence)
        parallel.accumulate(model, [batch], labelled_loss)
        buffer = torch.full((ranks.total,), float("nan"))
        ranks.add_gradients(buffer, 0.0, 1.0)
        dist.all_reduce(buffer, group=axes.group("replicas"))
        buffer /= axes.size("replicas")
        for name, parameter in model.named_parameters():
            cut, span = cut_of(parameter), span_of(parameter)
            want = wanted[name] if cut is None else cut.of(wanted[name])
            want = want.flatten() if span is None else want.flatten()[span.start : span.stop]
            got = buffer[ranks.own][ranks.place(parameter)]
            close = torch.testing.assert_close
            close(got, want, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def meshes(rank, world):
    own_gradients(rank, world)
    with_tensor_ranks(rank, world)
    alike_on_tensor_ranks(rank, world)


@pytest.mark.distributed
def test_meshes():
    run_ranks(meshes, 4)
