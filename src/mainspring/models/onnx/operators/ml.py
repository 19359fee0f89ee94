"""Operators of classical machine learning (domain ai.onnx.ml) on numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.models.onnx.operators.call import Call, Function, Table, Value

POST: dict[str, Function] = {
    "NONE": lambda call, x: x,
    "SOFTMAX": lambda call, x: torch.softmax(x, -1),
    "LOGISTIC": lambda call, x: torch.sigmoid(x),
}
"""What becomes of scores."""


def array_feature_extractor(call: Call, x: Tensor, index: Tensor) -> Tensor:
    """Columns of the last axis."""
    rows = x if x.ndim > 1 else x.reshape(1, -1)
    return rows[..., index.reshape(-1).long()]


def binarizer(call: Call, x: Tensor) -> Tensor:
    """1 above a threshold, else 0."""
    above: Tensor = x > call.get("threshold", 0.0)
    return above.to(x.dtype)


def scaler(call: Call, x: Tensor) -> Tensor:
    """(x - offset) scale."""
    offset, scale = (x.new_tensor(call.attributes[n], dtype=torch.float32) for n in ("offset", "scale"))
    return (x.float() - offset) * scale


def normalizer(call: Call, x: Tensor) -> Tensor:
    """Divide rows by their norm."""
    orders = {"MAX": float("inf"), "L1": 1.0, "L2": 2.0}
    norm = torch.linalg.vector_norm(x.float(), orders[call.get("norm", "MAX")], -1, keepdim=True)
    return x.float() / torch.where(norm == 0, torch.ones_like(norm), norm)


def imputer(call: Call, x: Tensor) -> Tensor:
    """Given values where one is missing."""
    values = call.get("imputed_value_floats") or call.get("imputed_value_int64s")
    missing = call.get("replaced_value_float", float("nan"))
    gone = torch.isnan(x) if missing != missing else x == missing
    return torch.where(gone, x.new_tensor(values), x)


def feature_vectorizer(call: Call, *inputs: Tensor) -> Tensor:
    """All inputs' columns side by side."""
    return torch.cat([x.reshape(x.shape[0], -1).float() for x in inputs], 1)


def linear_regressor(call: Call, x: Tensor, coefficients: Tensor, intercepts: Tensor | None = None) -> Tensor:
    """x w' + b; the weights are attributes, which the importer makes inputs."""
    made = x.float() @ coefficients.reshape(call.get("targets", 1), -1).T
    return _post(call, made if intercepts is None else made + intercepts)


def linear_classifier(
    call: Call, x: Tensor, coefficients: Tensor, intercepts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best class's number, or label where labels are integers, and the scores of all classes."""
    labels = call.get("classlabels_ints") or []
    names = call.get("classlabels_strings") or []
    classes = max(len(labels) or len(names), 2)
    rows = intercepts.numel() if intercepts is not None else classes
    scores = x.float() @ coefficients.reshape(rows, -1).T
    scores = scores if intercepts is None else scores + intercepts
    if rows == 1 and classes == 2:
        two = torch.cat([1 - torch.sigmoid(scores), torch.sigmoid(scores)], 1)
        scores = two if call.get("post_transform", "NONE") == "LOGISTIC" else torch.cat([-scores, scores], 1)
    else:
        scores = _post(call, scores)
    best = scores.argmax(1)
    return (torch.tensor(labels, device=x.device)[best] if labels else best), scores


def _post(call: Call, x: Tensor) -> Tensor:
    kind = call.get("post_transform", "NONE")
    if kind not in POST:
        raise UsageError(
            f"node {call.name!r}: post_transform {kind!r} is not supported; one of {list(POST)} is"
        )
    made: Tensor = POST[kind](call, x)
    return made


def label_encoder(call: Call, x: Tensor) -> Tensor:
    """Numbers for numbers, by a table."""
    kinds = ("int64s", "floats", "tensor")
    keys = next((call.get(f"keys_{k}") for k in kinds if call.get(f"keys_{k}") is not None), None)
    found = next(((call.get(f"values_{k}"), k) for k in kinds if call.get(f"values_{k}") is not None), None)
    if keys is None or found is None:
        raise UsageError(
            f"node {call.name!r} (LabelEncoder) maps text, which torch has no tensors of; cut the graph "
            "before it by naming the outputs that you train"
        )
    values, kind = found
    default = call.get("default_tensor")
    if default is None:
        default = call.get(
            "default_int64" if kind == "int64s" else "default_float", -1 if kind == "int64s" else 0.0
        )
    key = torch.as_tensor(keys, device=x.device)
    value = torch.as_tensor(values, device=x.device)
    same = (x[..., None] == key) | (torch.isnan(x.float())[..., None] & torch.isnan(key.float()))
    chosen = value[same.int().argmax(-1)]
    fallback = torch.as_tensor(default, device=x.device, dtype=value.dtype).reshape(())
    return torch.where(same.any(-1), chosen, fallback)


def one_hot_encoder(call: Call, x: Tensor) -> Tensor:
    """1 at each number's category, else 0."""
    categories = call.get("cats_int64s")
    if categories is None:
        raise UsageError(
            f"node {call.name!r} (OneHotEncoder) encodes text, which torch has no tensors of; cut the graph "
            "after it by naming its output as an input of your data"
        )
    return (x[..., None] == torch.tensor(categories, device=x.device)).float()


def zip_map(call: Call, x: Value) -> Value:
    """A mapping from label to score, of which the scores are kept as a tensor."""
    return x


_FUNCTIONS: dict[tuple[str, int], Function] = {
    ("ArrayFeatureExtractor", 1): array_feature_extractor,
    ("Binarizer", 1): binarizer,
    ("FeatureVectorizer", 1): feature_vectorizer,
    ("Imputer", 1): imputer,
    ("LabelEncoder", 2): label_encoder,
    ("LinearClassifier", 1): linear_classifier,
    ("LinearRegressor", 1): linear_regressor,
    ("Normalizer", 1): normalizer,
    ("OneHotEncoder", 1): one_hot_encoder,
    ("Scaler", 1): scaler,
    ("ZipMap", 1): zip_map,
}
ML: Table = {("ai.onnx.ml", op, since): function for (op, since), function in _FUNCTIONS.items()}
