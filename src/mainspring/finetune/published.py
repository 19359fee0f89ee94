"""Task models in the Hugging Face layout: BertForSequenceClassification and its kin, in both directions.

The encoder's weights go through its family's map; a head is two linear layers whose names, and one
activation, are what the families differ in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from torch import Tensor

from mainspring.errors import WeightsError, few, suggest
from mainspring.finetune.heads import HeadConfig, Task, TaskModel
from mainspring.models.files import read_json, read_weights, write_json, write_weights
from mainspring.models.hf import VOCAB_ROWS
from mainspring.models.hub import family_of
from mainspring.models.registry import FAMILIES
from mainspring.nn.config import TransformerConfig
from mainspring.text.tokenizer import Tokenizer

ENCODER, HEAD = "encoder.", "head."
_ENDINGS: Mapping[str, Task] = MappingProxyType(
    {"ForSequenceClassification": "classify", "ForTokenClassification": "tag", "ForQuestionAnswering": "span"}
)


class Names(NamedTuple):
    """What a family's published task models are called, and what the layers of their heads are."""

    classes: str
    """What the names of the classes begin with."""
    dense: str = "classifier.dense"
    """The dense layer of a row's head."""
    score: str = "classifier.out_proj"
    """The layer that gives a row's classes."""
    activation: Literal["tanh", "gelu"] = "tanh"


_BERT = Names("Bert", "bert.pooler.dense", "classifier")
_XLM_R = Names("XLMRoberta")
PUBLISHED: Mapping[str, Names] = MappingProxyType(
    {
        "bert": _BERT,
        "minilm": _BERT,
        "roberta": Names("Roberta"),
        "xlm_r": _XLM_R,
        "infoxlm": _XLM_R,
        "xlm_r_xl": Names("XLMRobertaXL"),
        "deberta": Names("Deberta", "pooler.dense", "classifier", "gelu"),
        "deberta_v2": Names("DebertaV2", "pooler.dense", "classifier", "gelu"),
        "electra": Names("Electra", activation="gelu"),
    }
)
"""By family."""


class ImportedTask(NamedTuple):
    """A task model that was read."""

    family: str
    config: TransformerConfig
    """Its encoder's configuration."""
    head: HeadConfig
    state: dict[str, Tensor]
    """Tensors by the names of `TaskModel`."""

    def model(self) -> TaskModel:
        """The model, whose parameters are these tensors."""
        model = TaskModel(self.config, self.head)
        model.load_state_dict(self.state, assign=True)
        return model


def task_of(values: Mapping[str, Any]) -> Task | None:
    """The task that a config.json names; None: it names none, or one that has no head here."""
    architecture = str((values.get("architectures") or [""])[0])
    found = next((task for end, task in _ENDINGS.items() if architecture.endswith(end)), None)
    regresses = values.get("problem_type") == "regression" or len(_labels(values)) == 1
    return "score" if found == "classify" and regresses else found


def import_task(path: str | Path) -> ImportedTask:
    """Read a task model from the Hugging Face layout.

    Raises:
        WeightsError: it is no task model, or of a family whose heads are not known, or its weights are
            missing, damaged or of other shapes.
    """
    folder = Path(path)
    values = read_json(folder / "config.json")
    task = task_of(values)
    if task is None:
        raise WeightsError(
            f"{folder}: architectures = {values.get('architectures')} is no task model; those end in "
            f"{', '.join(_ENDINGS)}"
        )
    kind = family_of(folder, str(values.get("model_type")))
    names = _names(kind.name)
    weights = kind.upgrade(read_weights(folder))
    published = _head_names(task, names)
    head, rest = {}, {}
    for name, tensor in weights.items():
        if name in published:
            head[published[name]] = tensor
        elif "pooler.dense" not in name:  # of an encoder whose task reads none
            rest[name] = tensor
    bare = {**values, "architectures": [f"{names.classes}Model"]}
    config = kind.from_hf(bare, rest.keys())
    state, _ = kind.weights.read(rest, config)
    settings = HeadConfig(
        task=task,
        labels=_labels(values) if task in ("classify", "tag") else (),
        several=values.get("problem_type") == "multi_label_classification",
        activation=_activation(values, names),
        dropout=_dropout(values),
    )
    lacking = [theirs for theirs, ours in published.items() if ours not in head]
    if lacking:
        raise WeightsError(f"{folder}: weights of the head are missing: {few(lacking)}")
    joined = {ENCODER + name: tensor for name, tensor in state.items()}
    joined |= {HEAD + name: tensor for name, tensor in head.items()}
    _check(folder, config, settings, joined)
    return ImportedTask(kind.name, config, settings, joined)


def export_task(
    family: str,
    model: TaskModel,
    tokenizer: Tokenizer | None,
    out_dir: str | Path,
    *,
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a task model as transformers' AutoModelFor... loads it; config.json is written last.

    Args:
        family: name of the encoder's family.
        model: the model; may be on meta where `state` is given.
        tokenizer: to put beside it, if any.
        out_dir: folder, made where absent.
        state: tensors by the names of `TaskModel` (None: the model's own).
        shard_bytes: size beyond which weights are spread over several files.

    Raises:
        WeightsError: the family has no published task models, or its layout cannot express this one.
    """
    names, kind, head = _names(family), FAMILIES[family], model.head_config
    config = model.encoder.config
    if model.reads_row and (not head.dense or head.activation != names.activation):
        raise WeightsError(
            f"{family}'s published row heads have a dense layer and {names.activation}, not dense = "
            f"{head.dense} and activation = {head.activation!r}; write it with finetune.native"
        )
    given = model.state_dict() if state is None else state
    inner = {n.removeprefix(ENCODER): t for n, t in given.items() if n.startswith(ENCODER)}
    weights = dict(kind.weights.write(inner, config))
    for theirs, ours in _head_names(head.task, names).items():
        weights[theirs] = given[HEAD + ours]
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(out)
    write_weights({n: t.detach().cpu().contiguous() for n, t in weights.items()}, out, shard_bytes)
    ending = next(end for end, task in _ENDINGS.items() if task == head.task or head.task == "score")
    labels = head.labels or tuple(f"LABEL_{i}" for i in range(head.classes))
    problem = {"score": "regression", "classify": "single_label_classification"}.get(head.task)
    values = {
        **kind.to_hf(config),
        "architectures": [names.classes + ending],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if head.several else problem,
        "classifier_dropout": head.dropout,
        "dtype": str(next(iter(weights.values())).dtype).removeprefix("torch."),
        **({} if config.vocab_rows is None else {VOCAB_ROWS: config.vocab_rows}),
    }
    write_json(out / "config.json", values)
    return out


def _names(family: str) -> Names:
    if family not in PUBLISHED:
        raise WeightsError(f"{family} has no published task models; {suggest(family, PUBLISHED)}")
    return PUBLISHED[family]


def _head_names(task: Task, names: Names) -> dict[str, str]:
    """Published names of a head's tensors -> ours within the head."""
    layers = {
        "classify": {names.dense: "dense", names.score: "score"},
        "tag": {"classifier": "score"},
        "span": {"qa_outputs": "score"},
    }["classify" if task == "score" else task]
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in ("weight", "bias")
    }


def _labels(values: Mapping[str, Any]) -> tuple[str, ...]:
    named = values.get("id2label")
    if isinstance(named, Mapping) and named:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    count = values.get("num_labels", 2)
    return tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) else 2))


def _activation(values: Mapping[str, Any], names: Names) -> Literal["tanh", "gelu"]:
    """DeBERTa's config.json says it; elsewhere it is the family's."""
    if not names.classes.startswith("Deberta"):
        return names.activation
    said = str(values.get("pooler_hidden_act", "gelu"))
    if said not in ("tanh", "gelu"):
        raise WeightsError(f"config.json: pooler_hidden_act = {said!r} is not supported; tanh and gelu are")
    return "tanh" if said == "tanh" else "gelu"


def _dropout(values: Mapping[str, Any]) -> float:
    for key in ("classifier_dropout", "cls_dropout", "hidden_dropout_prob"):
        if values.get(key) is not None:
            return float(values[key])
    return 0.1


def _check(folder: Path, config: TransformerConfig, head: HeadConfig, state: Mapping[str, Tensor]) -> None:
    """Refuse a head of another shape than the configuration says."""
    width = config.d_model
    shapes = {"score.weight": [head.classes, width], "score.bias": [head.classes]}
    if f"{HEAD}dense.weight" in state:
        shapes |= {"dense.weight": [width, width], "dense.bias": [width]}
    wrong = [
        f"{name} is {list(state[HEAD + name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if list(state[HEAD + name].shape) != shape
    ]
    if wrong:
        raise WeightsError(f"{folder}: the head does not fit config.json: {few(wrong)}")
