"""Losses of a graph's output, as sums and counts: only the trainer divides."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.data.batch import IGNORE
from mainspring.errors import ConfigError, few, suggest
from mainspring.models.onnx import OnnxModule
from mainspring.objectives.cross_entropy import summed_cross_entropy
from mainspring.train.graph.recipe import LossConfig

IGNORED = IGNORE
"""A class number that counts nothing."""
Sum = Callable[[Tensor, Tensor], Tensor]


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences, fp32."""
    if output.shape != target.shape and output.numel() != target.numel():
        raise ConfigError(
            f"loss.kind = 'mse' compares an output of shape {list(output.shape)} with a target of "
            f"{list(target.shape)}"
        )
    return (output.float() - target.reshape(output.shape).float()).square().sum()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Sum of -log softmax(output)[target] over classes on axis 1, fp32."""
    if output.ndim > 2:
        output = output.movedim(1, -1).reshape(-1, output.shape[1])
    return summed_cross_entropy(output, _labels(target))


def negative_log(output: Tensor, target: Tensor) -> Tensor:
    """Sum of -log output[target] of probabilities with classes on axis 1, fp32."""
    logs = torch.log(output.float().clamp(min=1e-12))
    return F.nll_loss(logs, target.long(), ignore_index=IGNORED, reduction="sum")


def next_token(output: Tensor, target: Tensor) -> Tensor:
    """Sum of -log softmax of the label over tokens, logits [rows, tokens, vocabulary], fp32."""
    return summed_cross_entropy(output.reshape(-1, output.shape[-1]), _labels(target))


def _labels(target: Tensor) -> Tensor:
    return target.reshape(-1).long()


LOSSES: dict[str, Sum] = {"mse": squared, "cross_entropy": cross_entropy, "causal": next_token}


def sum_of(config: LossConfig) -> Sum:
    """The function that a recipe's loss means."""
    return negative_log if config.probabilities and config.kind == "cross_entropy" else LOSSES[config.kind]


def count_of(config: LossConfig, target: Tensor) -> int:
    """Terms of the loss of a target."""
    return target.numel() if config.kind == "mse" else int((target != IGNORED).sum())


def output_of(config: LossConfig, outputs: tuple[str, ...] | Mapping[str, object]) -> str:
    """The output that a loss is of.

    Raises:
        ConfigError: the graph has several and none is named, or not the one that is.
    """
    names = tuple(outputs)
    if config.output is None:
        if len(names) != 1:
            raise ConfigError(f"the graph has {len(names)} outputs: {few(names)}; name one with loss.output")
        return names[0]
    return config.output


def check_output(config: LossConfig, module: OnnxModule) -> None:
    """Refuse a loss of an output that the graph does not have."""
    name = output_of(config, module.outputs)
    if name not in module.outputs:
        raise ConfigError(f"loss.output = {name!r}: {suggest(name, module.outputs)}")
