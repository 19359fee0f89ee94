"""Checkpoints: named logical tensors in slices with checksums, written atomically and verified by reading
back.

Names are loaded when they are first used: to find a checkpoint is not to load what writes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainspring.lazy import attributes

if TYPE_CHECKING:
    from mainspring.train.checkpoint.boxes import Held, Leaf
    from mainspring.train.checkpoint.folder import complete, latest, prune, sweep, verify
    from mainspring.train.checkpoint.io import load, load_model_state, save
    from mainspring.train.checkpoint.manifest import Entry, Manifest, Slice
    from mainspring.train.checkpoint.saver import Outcome, Save, Saver
    from mainspring.train.checkpoint.state import model_state, optimizer_state, run_state

_HOMES = {
    "boxes": ("Held", "Leaf"),
    "folder": ("complete", "latest", "prune", "sweep", "verify"),
    "io": ("load", "load_model_state", "save"),
    "manifest": ("Entry", "Manifest", "Slice"),
    "saver": ("Outcome", "Save", "Saver"),
    "state": ("model_state", "optimizer_state", "run_state"),
}

__all__ = [
    "Entry",
    "Held",
    "Leaf",
    "Manifest",
    "Outcome",
    "Save",
    "Saver",
    "Slice",
    "complete",
    "latest",
    "load",
    "load_model_state",
    "model_state",
    "optimizer_state",
    "prune",
    "run_state",
    "save",
    "sweep",
    "verify",
]

__getattr__ = attributes(__name__, _HOMES)
