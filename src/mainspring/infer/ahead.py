"""Compiled packages: a model compiled ahead of time, so that a process starts at once and compiles nothing.

`export_compiled` traces the same functions that `infer.compiled` compiles (torch.export), compiles them to a
library (AOTInductor) and puts the weights beside it, once, in a mapped file that the library reads from. The
folder also holds the tokenizer, and is all that a service needs. It runs on machines with the instructions of
the one that made it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mainspring.config import Section, parse
from mainspring.errors import UsageError
from mainspring.infer.compiled import EncoderStep, StaticStep, Step, check_compilable, check_static
from mainspring.infer.layout import Layout
from mainspring.infer.load import Equipment, Network, Shape, assemble, shape_of
from mainspring.models.files import read_json, write_json
from mainspring.nn.static_cache import StaticCache
from mainspring.nn.transformer import Transformer
from mainspring.text.tokenizer import Tokenizer

SETTINGS, WEIGHTS, ENCODER = "mainspring_compiled.json", "weights.safetensors", "encoder.pt2"
COMPILERS = ("c++", "g++", "clang++")


class CompiledSettings(Section):
    """What the file holds."""

    shape: Shape
    name: str
    precision: str
    torch_version: str
    capability: str
    """Vector instructions of the processor that it was compiled on."""
    causal: bool
    refusal: str | None = None
    layout: dict[str, Any] | None = None
    """Fields of `infer.layout.Layout`."""
    steps: tuple[tuple[int, int], ...] = ()
    """Rows and slots of each compiled step."""


def require_compiler() -> None:
    """Raises UsageError where there is no C++ compiler."""
    if not any(map(shutil.which, COMPILERS)):
        raise UsageError(
            f"compiling ahead of time needs a C++ compiler and none of {', '.join(COMPILERS)} is on the "
            "path; install one (Debian: apt install g++), or run the model uncompiled"
        )


def export_compiled(
    network: Network,
    equipment: Equipment,
    precision: str,
    out_dir: str | Path,
    *,
    steps: Sequence[tuple[int, int]],
) -> Path:
    """Compile a network and write the package; the settings are written last.

    Args:
        network: in its precision, on the CPU. Of one that writes the step is compiled, else the encoder.
        equipment: what goes with it.
        precision: what it computes in.
        out_dir: folder, made where absent.
        steps: rows and slots of the steps to compile, powers of two; other batches run uncompiled.

    Raises:
        UsageError: there is no C++ compiler, or the model has parts that cannot be compiled, or is not on
            the CPU.
    """
    require_compiler()
    encoder = network if isinstance(network, Transformer) else network.encoder
    device = next(encoder.parameters()).device
    if device.type != "cpu":
        raise UsageError(f"packages are compiled for the CPU, and the model is on {device}; load it there")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if equipment.refusal is None:
        check_static(encoder)
        for rows, slots in steps:
            _compile(StaticStep(encoder), _step_inputs(encoder, rows, slots), None, out / _step(rows, slots))
    else:
        check_compilable(encoder)
        ids = torch.zeros((2, 16), dtype=torch.int64)
        sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        # One tensor given twice would be one input: what is read of the first would be of the second.
        inputs = (ids, ids.clone(), torch.ones_like(ids, dtype=torch.bool))
        _compile(EncoderStep(encoder, causal=equipment.causal), inputs, (sizes,) * 3, out / ENCODER)
    equipment.tokenizer.save(out)
    weights = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
    save_file(weights, out / WEIGHTS)
    layout = equipment.layout
    settings = CompiledSettings(
        shape=shape_of(network),
        name=equipment.name,
        precision=precision,
        torch_version=torch.__version__,
        capability=torch.backends.cpu.get_cpu_capability(),
        causal=equipment.causal,
        refusal=equipment.refusal,
        layout=None if layout is None else asdict(layout),
        steps=tuple(steps) if equipment.refusal is None else (),
    )
    write_json(out / SETTINGS, settings.model_dump(mode="json", exclude_none=True))
    return out


def is_package(path: str | Path) -> bool:
    """Whether a folder holds a compiled package."""
    return (Path(path) / SETTINGS).is_file()


class Package:
    """A compiled package that was opened."""

    def __init__(self, path: str | Path) -> None:
        """Open the package in a folder.

        Raises:
            UsageError: it was made by another version of torch, or for other instructions.
        """
        folder = Path(path)
        self.settings = parse(CompiledSettings, read_json(folder / SETTINGS), source=str(folder / SETTINGS))
        made, here = self.settings.torch_version, torch.__version__
        fits = self.settings.capability == torch.backends.cpu.get_cpu_capability()
        if made != here or not fits:
            raise UsageError(
                f"{folder}: compiled by torch {made} for {self.settings.capability}, and this is torch "
                f"{here} with {torch.backends.cpu.get_cpu_capability()}; compile it again here"
            )
        self.tensors = load_file(folder / WEIGHTS)
        self.network = assemble(self.settings.shape, self.tensors)
        self._folder = folder

    def equipment(self) -> Equipment:
        """What goes with the network."""
        made, layout = self.settings, None
        if made.layout is not None:
            fields: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in made.layout.items()
            }
            layout = Layout(**fields)
        return Equipment(Tokenizer.load(self._folder), made.name, layout, made.refusal, made.causal)

    def encoder(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The compiled encoder, as `EncoderStep`."""
        loaded: Callable[[Tensor, Tensor, Tensor], Tensor] = _load(
            self._folder / ENCODER, self._constants("encoder.")
        )
        return loaded

    def step(self, fallback: Step) -> Step:
        """The compiled steps; `fallback` for other rows and slots."""
        loaded = {
            size: _load(self._folder / _step(*size), self._constants("model."))
            for size in self.settings.steps
        }

        def step(
            ids: Tensor, pos: Tensor, rank: Tensor, types: Tensor, langs: Tensor, tensors: list[Tensor]
        ) -> Tensor:
            found = loaded.get((ids.shape[0], tensors[1].shape[1])) if ids.shape[1] == 1 else None
            chosen: Step = fallback if found is None else found
            return chosen(ids, pos, rank, types, langs, tensors)

        return step

    def _constants(self, prefix: str) -> dict[str, Tensor]:
        """The transformer's tensors by their names in a compiled module."""
        own = "" if isinstance(self.network, Transformer) else "encoder."
        return {
            prefix + name.removeprefix(own): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(own)
        }


def _step(rows: int, slots: int) -> str:
    return f"step-{rows}x{slots}.pt2"


def _step_inputs(model: Transformer, rows: int, slots: int) -> tuple[Any, ...]:
    ids = torch.zeros((rows, 1), dtype=torch.int64)
    dtype = next(model.parameters()).dtype
    tensors = StaticCache.allocate(model.config, rows, slots, dtype, "cpu", model.heads)
    return ids, ids.clone(), ids.clone(), ids.clone(), ids.clone(), tensors


def _compile(module: nn.Module, inputs: tuple[Any, ...], dynamic: Any, path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        # torch 2.13 looks at its own trees of arguments in a way that it warns of.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)", FutureWarning)
        exported = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
        torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(path),
            # The weights lie beside it, once.
            inductor_configs={"aot_inductor.package_constants_in_so": False},
        )


def _load(path: Path, constants: Mapping[str, Tensor]) -> Any:
    loaded = torch._inductor.aoti_load_package(str(path))
    wanted = set(loaded.get_constant_fqns())
    loaded.load_constants(
        {name: tensor for name, tensor in constants.items() if name in wanted},
        check_full_update=True,
        user_managed=True,
    )
    return loaded
