"""Z-code M3 with its experts, and the config.json of NLLB-MoE, the public model nearest to it.

Every other feed-forward is 64 experts, of which a token takes one; room for an equal share in training (Kim
et al. 2021, section 3). NLLB-MoE (NLLB team 2022, arXiv 2207.04672, section 6) takes two. Settings that
matter in training alone (capacity, noise, whom an overfull expert keeps) are not all in config.json.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from mainspring.errors import WeightsError
from mainspring.models.hf import required
from mainspring.models.zcode import config as dense
from mainspring.nn.config import ExpertLayers, TransformerConfig

PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        "tiny": dense.zcode(128, 2, 2, 2, vocab_size=8192, max_positions=256, experts={"count": 4}),
        "m3": dense.zcode(1024, 24, 12, 16, experts={"count": 64, "noise": "jitter"}),
    }
)
"""10.15 billion parameters (published as 10) after a tiny one."""


def to_hf(config: TransformerConfig) -> dict[str, Any]:
    """config.json of an NLLB-MoE of this shape.

    Raises:
        WeightsError: the configuration has parts that NLLB-MoE has not; each is named.
    """
    experts = config.experts
    if experts is None:
        raise WeightsError("a Z-code with experts needs config.experts; the dense one is the family zcode")
    if not isinstance(experts.count, int):
        raise WeightsError(f"experts.count = {list(experts.count)}: NLLB-MoE has one number for all layers")
    theirs = {
        "top_k": 2,
        "renormalise": True,
        "offset": None,
        "residual": False,
        "eval_capacity_factor": None,
    }
    wrong = [
        f"experts.{name} = {getattr(experts, name)!r} (NLLB-MoE: {value!r})"
        for name, value in theirs.items()
        if getattr(experts, name) != value
    ]
    if wrong:
        raise WeightsError(f"this model is not an NLLB-MoE: {', '.join(wrong)}")
    return {
        **dense.to_hf(config.replace(experts=None)),
        "architectures": ["NllbMoeForConditionalGeneration"],
        "model_type": "nllb-moe",
        "num_experts": experts.count,
        "encoder_sparse_step": experts.every,
        "decoder_sparse_step": experts.every,
        "router_bias": False,
        "router_dtype": "float32",
        "router_ignore_padding_tokens": False,
        "router_aux_loss_coef": experts.balance_weight,
        "router_z_loss_coef": experts.z_weight,
        "second_expert_policy": "sampling" if experts.noise == "gumbel" else "all",
        "normalize_router_prob_before_dropping": False,
        "batch_prioritized_routing": False,
        "moe_eval_capacity_token_fraction": 1.0,
        "moe_token_dropout": 0.0,
    }


def from_hf(values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
    """The configuration that an NLLB-MoE's config.json describes.

    Raises:
        WeightsError: it is not one that the transformer can be.
    """
    steps = [required(values, f"{side}_sparse_step") for side in ("encoder", "decoder")]
    if steps[0] != steps[1] or steps[0] < 1:
        raise WeightsError(
            f"config.json: encoder_sparse_step = {steps[0]} and decoder_sparse_step = {steps[1]}: only equal "
            f"ones above 0 are supported"
        )
    only = {
        "router_bias": False,
        "normalize_router_prob_before_dropping": False,
        "moe_eval_capacity_token_fraction": 1.0,
        "moe_token_dropout": 0.0,
    }
    for name, value in only.items():
        if values.get(name, value) != value:
            hint = "; scale every fc2 by 1 minus it and set it to 0" if name == "moe_token_dropout" else ""
            raise WeightsError(f"config.json: {name} = {values[name]!r}: only {value!r} is supported{hint}")
    experts = ExpertLayers(
        count=required(values, "num_experts"),
        every=steps[0],
        top_k=2,
        keep="probability" if values.get("batch_prioritized_routing") else "first",
        noise="gumbel" if values.get("second_expert_policy") == "sampling" else None,
        balance_weight=float(values.get("router_aux_loss_coef", 0.001)),
        z_weight=float(values.get("router_z_loss_coef", 0.001)),
    )
    return dense.from_hf(values, names).replace(experts=experts.model_dump(mode="json"))
