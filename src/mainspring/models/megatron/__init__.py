"""Megatron's tensor-parallel checkpoints of GPT-2-shaped models, Turing-NLG among them."""

from mainspring.models.megatron.files import SETTINGS, MegatronModel, export_megatron, import_megatron
from mainspring.models.megatron.shares import AXES, Version, merge, split

__all__ = [
    "AXES",
    "SETTINGS",
    "MegatronModel",
    "Version",
    "export_megatron",
    "import_megatron",
    "merge",
    "split",
]
