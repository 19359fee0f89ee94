"""Every error that Mainspring raises on purpose: one tree, so that a caller may catch as widely as it wants.

A message says what happened, the numbers, and what to do. `UsageError` is what a person can mend by changing
an input; `RunFault` is what went wrong while running.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType


class MainspringError(Exception):
    """Root of the tree."""


class UsageError(MainspringError, ValueError):
    """The input is wrong and the message says how to mend it."""


class ConfigError(UsageError):
    """A recipe, an override or a section is wrong; the message names the field."""


class PlanError(UsageError):
    """A plan cannot be carried out: parts that do not compose, or bytes that do not fit."""


class DataError(UsageError):
    """Input data is missing, damaged or of the wrong kind."""


class TokenizerError(UsageError):
    """A tokenizer cannot be trained or loaded."""


class WeightsError(UsageError):
    """Weights do not fit the model: the message lists the names and shapes that differ."""


class CheckpointError(UsageError):
    """A checkpoint is missing, incomplete, or its bytes are not those that were written."""


class SearchIndexError(UsageError):
    """An index of documents is missing, held by another writer, or has other bytes than were written."""


class MissingExtraError(MainspringError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""


class RunFault(MainspringError, RuntimeError):
    """Something failed while running."""


class NonFiniteError(RunFault):
    """A loss or gradient is not finite; the message names the first module and tensor concerned."""


class CollectiveError(RunFault):
    """A collective failed or ranks disagree."""


class StageError(RunFault):
    """A rank of a pipeline failed, died or fell silent; the message names its stage and rank."""


class DiskError(RunFault):
    """A folder that states or an index are kept in failed: full, unreadable, or with other bytes than
    written."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to `name`, or list a few known ones.

    >>> suggest("stpes", ["steps", "seed"])
    "did you mean 'steps'?"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(repr(n) for n in names[:12])
    return f"known: {shown}{', ...' if len(names) > 12 else ''}"


def few(items: Sequence[str], separator: str = ", ", most: int = 8) -> str:
    """The first items, and how many more there are.

    >>> few(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed and this feature needs it: pip install 'mainspring[{extra}]'"
        ) from error
