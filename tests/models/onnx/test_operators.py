"""Every operator against ONNX's own cases for it."""

from __future__ import annotations

import re
from collections import defaultdict

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from mainspring.errors import UsageError
from mainspring.models.onnx import OPERATORS, read_onnx
from mainspring.models.onnx.operators.table import GROUPS

from .cases import Case, node_cases, run_case

REFUSED = (
    "Adagrad", "Adam", "CausalConvWithState", "DeformConv", "FlexAttention", "ImageDecoder", "LabelEncoder",
    "LinearAttention", "Momentum", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
    "TfIdfVectorizer", "TreeEnsemble", "no counterpart in torch", "no tensors of text", "opset 1,",
)  # fmt: skip
"""What messages of refused cases name: an operator, text, a type of elements, or opset 1."""
CHANCE = re.compile(r"test_(bernoulli|training_dropout|random)")
"""Cases whose numbers come from another generator than torch's."""
LEAST = 1700
"""Cases that pass."""


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return node_cases()


@pytest.mark.slow
def test_every_case_of_every_operator_that_the_table_has(cases: list[Case]) -> None:
    passed, faults, refused = 0, [], defaultdict(list)
    for case in cases:
        if CHANCE.search(case.name):
            continue
        try:
            run_case(case)
            passed += 1
        except UsageError as error:
            refused[str(error)].append(case.name)
        except Exception as error:
            faults.append(f"{case.name}: {type(error).__name__}: {str(error)[:200]}")
    assert not faults, "\n".join(faults)
    for message, names in refused.items():
        assert any(word in message for word in REFUSED), (message, names)
    assert passed >= LEAST


def test_the_groups_are_the_table() -> None:
    assert sum(len(group) for group in GROUPS.values()) == len(OPERATORS)
    first: dict[tuple[str, str], int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        key = schema.domain, schema.name
        first[key] = min(schema.since_version, first.get(key, schema.since_version))
    for domain, op, since in OPERATORS:
        assert since >= first[domain, op], op


def node(op: str, opset: int, inputs: int = 1, domain: str = "", **attributes: object) -> onnx.ModelProto:
    """A graph of one node of float vectors."""
    names = [f"x{n}" for n in range(inputs)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in names]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="the_node", domain=domain, **attributes)],
        "one",
        values,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)])


def test_an_unknown_operator_is_named_with_its_node_and_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"node 'the_node': operator 'Sofmax'.*'Softmax'"):
        read_onnx(node("Sofmax", 20))
    with pytest.raises(UsageError, match="cut the graph behind it"):
        read_onnx(node("StringSplit", 20))
    with pytest.raises(UsageError, match=r"com\.microsoft.*without ONNX Runtime's optimisations"):
        read_onnx(node("SkipLayerNormalization", 1, domain="com.microsoft"))


def test_an_opset_that_is_too_old_is_refused_with_the_conversion() -> None:
    with pytest.raises(UsageError, match=r"opset 6.*convert_version"):
        read_onnx(node("Add", 6, inputs=2))


def test_softmax_of_old_opsets_is_over_all_that_follows() -> None:
    x = torch.randn(2, 3, 4)
    old = read_onnx(node("Softmax", 11, axis=1)).module(x)["y"]
    torch.testing.assert_close(old, torch.softmax(x.reshape(2, 12), 1).reshape(2, 3, 4))
    new = read_onnx(node("Softmax", 13, axis=1)).module(x)["y"]
    torch.testing.assert_close(new, torch.softmax(x, 1))


def test_an_operator_that_onnx_defines_by_others_needs_no_function() -> None:
    without = {key for key in OPERATORS if key[1] == "AffineGrid"}
    assert without  # AffineGrid has one; CausalConvWithState has none, and ONNX says what it is made of
    assert ("", "CausalConvWithState", 27) not in OPERATORS
