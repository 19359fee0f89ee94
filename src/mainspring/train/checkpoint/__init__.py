"""Checkpoints: named logical tensors in slices with checksums, written atomically and verified by reading
back."""

from mainspring.train.checkpoint.boxes import Held, Leaf
from mainspring.train.checkpoint.folder import complete, latest, prune, sweep, verify
from mainspring.train.checkpoint.io import load, load_model_state, save
from mainspring.train.checkpoint.manifest import Entry, Manifest, Slice
from mainspring.train.checkpoint.saver import Outcome, Save, Saver
from mainspring.train.checkpoint.state import model_state, optimizer_state, run_state

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
