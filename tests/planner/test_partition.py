"""The partitioner against enumeration of every cut and every replication, written down independently."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from mainspring.errors import DataError, PlanError
from mainspring.parallel.pipedream import Layout
from mainspring.planner.pipedream import Chain, Cut, Level, Node, partition


def random_chain(draw: np.random.Generator, nodes: int) -> Chain:
    return Chain(
        nodes=tuple(
            Node(
                name=f"n{i}",
                forward=float(draw.uniform(1, 20)),
                backward=float(draw.uniform(1, 40)),
                activation_bytes=int(draw.uniform(1, 100) * 1e4),
                parameter_bytes=int(10 ** draw.uniform(3, 7)),
            )
            for i in range(nodes)
        )
    )


class Group(NamedTuple):
    """A stage of a level in the enumeration: nodes, replicas, and the stages inside a unit."""

    nodes: range
    replicas: int
    inside: list[Group]


def pipelines(nodes: range, levels: list[Level], units: int, straight: bool) -> Iterator[list[Group]]:
    """Every way to lay nodes over exactly `units` units of the top one of `levels`."""
    *lower, _ = levels
    for replicas in range(1, (1 if straight else units) + 1):
        for many in range(1, len(nodes) + 1):
            rest, remaining = units - replicas, nodes[many:]
            if (rest == 0) != (len(remaining) == 0):
                continue
            inner = list(pipelines(nodes[:many], lower, lower[-1].units, straight)) if lower else [[]]
            tails = list(pipelines(remaining, levels, rest, straight)) if rest else [[]]
            for inside in inner:
                for tail in tails:
                    yield [Group(nodes[:many], replicas, inside), *tail]


def flat(groups: list[Group], times: int = 1) -> list[tuple[range, int]]:
    """Stages of workers."""
    found: list[tuple[range, int]] = []
    for group in groups:
        inner = flat(group.inside, times * group.replicas)
        found += inner or [(group.nodes, times * group.replicas)]
    return found


def cost(chain: Chain, groups: list[Group], levels: list[Level], overlap: bool) -> float:
    """Seconds of the slowest stage or link, from the formulas."""
    bandwidth, found = levels[-1].bandwidth, [0.0]
    for position, (nodes, m, inside) in enumerate(groups):
        if inside:
            compute = cost(chain, inside, levels[:-1], overlap)
        else:
            compute = sum(chain.nodes[n].forward + chain.nodes[n].backward for n in nodes) / 1e3
        weights = sum(chain.nodes[n].parameter_bytes for n in nodes)
        if overlap:
            found.append(max(compute / m, 2 * (m - 1) / m * weights / bandwidth))
        else:
            found.append(compute / m + 4 * (m - 1) / m**2 * weights / bandwidth)
        if position:
            found.append(2 * chain.nodes[nodes[0] - 1].activation_bytes / bandwidth / m)
    return max(found)


def fits(chain: Chain, groups: list[Group], memory: float) -> bool:
    """Every worker holds its stage once for each minibatch in flight there, by the layout's own counts."""
    stages = flat(groups)
    layout = Layout(tuple(replicas for _, replicas in stages))
    return all(
        (layout.warmup(s) + 1)
        * sum(chain.nodes[n].parameter_bytes + chain.nodes[n].activation_bytes for n in nodes)
        <= memory
        for s, (nodes, _) in enumerate(stages)
    )


def brute_force(
    chain: Chain, levels: list[Level], overlap: bool, straight: bool, fewer: bool, memory: float | None
) -> float:
    units = range(1, levels[-1].units + 1) if fewer else [levels[-1].units]
    found = (
        cost(chain, groups, levels, overlap)
        for m in units
        for groups in pipelines(range(len(chain.nodes)), levels, m, straight)
        if memory is None or fits(chain, groups, memory)
    )
    return min(found, default=math.inf)


def seconds(chain: Chain, levels: list[Level], **options: object) -> float:
    try:
        return partition(chain, levels, **options).seconds  # type: ignore[arg-type]
    except PlanError:
        return math.inf


@pytest.mark.parametrize("seed", range(30))
def test_one_level_equals_brute_force(seed: int) -> None:
    draw = np.random.default_rng(seed)
    chain = random_chain(draw, int(draw.integers(1, 7)))
    levels = [Level(int(draw.integers(1, 6)), float(10 ** draw.uniform(6, 9)))]
    size = sum(n.parameter_bytes + n.activation_bytes for n in chain.nodes)
    for overlap in (False, True):
        for straight in (False, True):
            for fewer in (False, True):
                for memory in (None, float(size * draw.uniform(0.3, 3))):
                    options = {"overlap": overlap, "straight": straight, "fewer": fewer, "memory": memory}
                    wanted = brute_force(chain, levels, **options)  # type: ignore[arg-type]
                    assert seconds(chain, levels, **options) == pytest.approx(wanted), options


@pytest.mark.parametrize("seed", range(30))
def test_two_levels_equal_brute_force(seed: int) -> None:
    draw = np.random.default_rng(100 + seed)
    chain = random_chain(draw, int(draw.integers(2, 6)))
    levels = [Level(int(draw.integers(1, 4)), 1e9), Level(int(draw.integers(1, 4)), 10 ** draw.uniform(6, 8))]
    size = sum(n.parameter_bytes + n.activation_bytes for n in chain.nodes)
    for overlap in (False, True):
        for memory in (None, float(size * draw.uniform(0.3, 3))):
            options = {"overlap": overlap, "straight": False, "fewer": bool(seed % 2), "memory": memory}
            wanted = brute_force(chain, levels, **options)  # type: ignore[arg-type]
            assert seconds(chain, levels, **options) == pytest.approx(wanted), options


def uniform(nodes: int, parameter_bytes: int = 0, activation_bytes: int = 0) -> Chain:
    one = Node(
        name="block",
        forward=1,
        backward=2,
        activation_bytes=activation_bytes,
        parameter_bytes=parameter_bytes,
    )
    return Chain(nodes=(one,) * nodes)


def test_a_cut_covers_the_chain_and_knows_its_schedule() -> None:
    draw = np.random.default_rng(1)
    chain = random_chain(draw, 20)
    cut = partition(chain, [Level(4, 1e9), Level(2, 1e8)])
    assert [n for part in cut.parts for n in range(part.first, part.last + 1)] == list(range(20))
    assert cut.layout.workers == 8
    assert cut.layout.noam == math.ceil(8 / cut.parts[0].replicas)
    assert cut.stage_of()[19] == len(cut.parts) - 1


def test_light_weights_are_replicated_and_heavy_ones_are_not() -> None:
    """VGG's shape: the paper's cut of 15 replicas and 1 (table 1), here with 3 and 1."""
    conv = Node(name="conv", forward=10, backward=20, activation_bytes=10**5, parameter_bytes=10**4)
    dense = Node(name="dense", forward=3, backward=6, activation_bytes=10**4, parameter_bytes=10**8)
    cut = partition(Chain(nodes=(conv, conv, dense)), [Level(4, 1.25e8)])
    assert [(p.first, p.last, p.replicas) for p in cut.parts] == [(0, 1, 3), (2, 2, 1)]
    assert partition(uniform(1, 10), [Level(8, 1e9)]).parts[0].replicas == 8


def test_straight_pipelines_balance() -> None:
    cut = partition(uniform(8), [Level(4, 1e9)], straight=True)
    assert [p.last - p.first + 1 for p in cut.parts] == [2, 2, 2, 2]
    assert cut.seconds == pytest.approx(0.006)
    assert [cut.layout.warmup(s) for s in range(4)] == [3, 2, 1, 0]


def test_fewer_workers_where_links_are_slow() -> None:
    chain = uniform(4, 10**7, 10**7)
    assert partition(chain, [Level(4, 1e6)], fewer=True).layout.workers == 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PlanError, match="3 nodes over 4 workers without replication"):
        partition(uniform(3), [Level(4, 1e9)], straight=True)
    with pytest.raises(PlanError, match="fits in 5 bytes"):
        partition(uniform(3, 100), [Level(2, 1e9)], memory=5)
    with pytest.raises(PlanError, match="at least one unit"):
        partition(uniform(3), [])


def test_a_large_chain_takes_seconds() -> None:
    """The paper: under 8 s."""
    began = time.process_time()
    cut = partition(random_chain(np.random.default_rng(0), 40), [Level(8, 1e10), Level(4, 1e9)])
    assert cut.layout.workers == 32
    assert time.process_time() - began < 8


def test_json_and_text_graph_come_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    chain = random_chain(np.random.default_rng(3), 5).model_copy(update={"model": "toy", "rows": 4})
    chain.save(tmp_path / "profile.json")
    assert Chain.load(tmp_path / "profile.json") == chain
    cut: Cut = partition(chain, [Level(2, 1e9)])
    graph = chain.to_graph(cut.stage_of())
    assert graph.count("stage_id=0") == cut.parts[0].last + 1
    (tmp_path / "graph.txt").write_text(graph)
    back = Chain.load(tmp_path / "graph.txt")
    for a, b in zip(back.nodes, chain.nodes, strict=True):
        assert (a.name, a.activation_bytes, a.parameter_bytes) == (
            b.name,
            b.activation_bytes,
            b.parameter_bytes,
        )
        assert (a.forward, a.backward) == (round(b.forward, 3), round(b.backward, 3))


def test_a_graph_of_the_original_profiler_is_read() -> None:
    """Nodes in any order, several activations of a node, sizes as floats."""
    text = (
        "node3 -- Linear(in=4, out=2) -- forward_compute_time=0.500, backward_compute_time=1.000, "
        "activation_size=16.0, parameter_size=48.000 -- stage_id=1\n"
        "node1 -- Input0 -- forward_compute_time=0.000, backward_compute_time=0.000, "
        "activation_size=0.0, parameter_size=0.000\n"
        "node2 -- LSTM(4, 4) -- forward_compute_time=2.000, backward_compute_time=4.000, "
        "activation_size=[64.0; 32.0], parameter_size=256.000\n"
        "\tnode1 -- node2\n\tnode2 -- node3\n"
    )
    chain = Chain.from_graph(text)
    assert [n.name for n in chain.nodes] == ["Input0", "LSTM(4, 4)", "Linear(in=4, out=2)"]
    assert [n.activation_bytes for n in chain.nodes] == [0, 96, 16]
    with pytest.raises(DataError, match="node2 has several neighbours"):
        Chain.from_graph(text + "\tnode2 -- node1\n")
    with pytest.raises(DataError, match="3 nodes and 1 edges are no chain"):
        Chain.from_graph(text.replace("\tnode2 -- node3\n", ""))
    with pytest.raises(DataError, match="line 1: no node"):
        Chain.from_graph("node1 -- x\n")
    with pytest.raises(DataError, match="no profile can be read"):
        Chain.load("nowhere.json")
