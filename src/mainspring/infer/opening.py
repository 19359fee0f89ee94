"""From a path to a network that is ready to run: packed or not, in a precision, whole or this rank's part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.errors import PlanError, UsageError
from mainspring.infer import pack as packs
from mainspring.infer.ahead import Package, is_package
from mainspring.infer.compiled import StaticStep, Step, over_tensors
from mainspring.infer.load import Equipment, Network, Place, Shape, assemble, equip, find, read, usable_device
from mainspring.infer.precision import PRECISIONS, checked, convert, converted, notes
from mainspring.infer.precision import packed as packed_tensors
from mainspring.infer.quantized.encoded import keep_integers
from mainspring.models.native import SETTINGS, read_encoded
from mainspring.nn.transformer import Transformer

if TYPE_CHECKING:
    from mainspring.parallel import Plan


@dataclass(frozen=True, slots=True)
class Opened:
    """A network and what goes with it."""

    network: Network
    """In evaluation mode, in its precision, on its device."""
    equipment: Equipment
    precision: str
    plain: Callable[[], Network]
    """Makes the module as it is, in fp32, on the same device."""
    notes: tuple[str, ...] = ()
    """What whoever runs it should know."""
    step: Step | None = None
    """A compiled step of decoding."""
    forward: Callable[[TokenBatch], Tensor] | None = None
    """A compiled encoder."""


def open_path(
    path: str | Path,
    device: str | torch.device,
    precision: str,
    *,
    direction: str | None = None,
    plan: Plan | None = None,
    pack: bool = False,
    folder: str | Path | None = None,
) -> Opened:
    """Open what is at a path; arguments and errors as for `Engine.load`."""
    where, precision = usable_device(device), checked(precision)
    if is_package(path):
        return _open_package(path, where, precision, spread=plan is not None and plan.world > 1)
    if plan is not None:
        from mainspring.infer.tensor_parallel import check_plan

        check_plan(plan)
    place = find(path)
    packed = packs.find_pack(place, precision, folder)
    if packed is None and pack:
        packed = _write(place, precision, folder)
    shape, state = read(place) if packed is None else (packed.header.shape, packed.tensors())
    equipment = equip(place, shape, direction)
    if plan is not None and plan.world > 1:
        if PRECISIONS[precision].quantized:
            raise PlanError(f"{precision} is not cut over ranks; use fp32 or bf16, or plan.tensor = 1")
        from mainspring.infer.tensor_parallel import spread

        network = spread(shape, state, plan, PRECISIONS[precision].dtype, where)
    elif packed is None:
        network = _converted(place, shape, state, precision).to(where)
    elif PRECISIONS[precision].quantized:
        network = converted(shape.build(), precision, state, packed.metadata).to(where)
    else:
        network = assemble(shape, state).to(where)

    def plain() -> Network:
        return assemble(*read(place)).float().to(where)

    return Opened(network, equipment, precision, plain, notes(precision, where))


def _converted(place: Place, shape: Shape, state: Mapping[str, Tensor], precision: str) -> Network:
    """The network in a precision; of a model that is stored in integers with those."""
    network = convert(assemble(shape, state), precision)
    if PRECISIONS[precision].quantized and place.kind == "model" and (place.directory / SETTINGS).is_file():
        keep_integers(network, read_encoded(place.directory))
    return network


def _open_package(path: str | Path, device: torch.device, precision: str, *, spread: bool) -> Opened:
    """A package that was compiled ahead of time."""
    package = Package(path)
    made = package.settings
    if device.type != "cpu" or precision not in ("fp32", made.precision) or spread:
        raise UsageError(
            f"{path} was compiled for one process on the CPU in {made.precision}: load it so, or compile the "
            f"model again"
        )

    def plain() -> Network:
        return assemble(made.shape, package.tensors).float()

    opened = Opened(package.network, package.equipment(), made.precision, plain)
    if made.refusal is not None:
        return replace(opened, forward=over_tensors(package.encoder()))
    assert isinstance(package.network, Transformer)
    return replace(opened, step=package.step(StaticStep(package.network)))


def pack_model(path: str | Path, precision: str, folder: str | Path | None = None) -> tuple[Path, bool]:
    """Write the packed weights of what is at a path, unless they are up to date: where, and whether it did.

    Raises:
        UsageError: nothing loadable is there, there is no such precision, or the folder cannot be written.
    """
    place, precision = find(path), checked(precision)
    found = packs.find_pack(place, precision, folder)
    if found is not None:
        return found.path, False
    return _write(place, precision, folder).path, True


def _write(place: Place, precision: str, folder: str | Path | None) -> packs.Packed:
    shape, state = read(place)
    tensors, metadata = packed_tensors(_converted(place, shape, state, precision))
    packs.write(place, shape, tensors, metadata, precision, packs.path_of(place, precision, folder))
    made = packs.find_pack(place, precision, folder)
    if made is None:
        raise UsageError(f"{place.directory}: changed while it was packed; pack it again")
    return made
