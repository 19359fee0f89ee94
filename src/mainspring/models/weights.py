"""WeightMap: one declarative table of weight names and layouts, read in both directions.

A rule joins a pattern of ours to one or several patterns of a published checkpoint with a transform; `{i}`
stands for a layer's number, and one with `{e}` for a tensor of each expert. The shapes that a checkpoint must
have follow from ours through the transforms, on the meta device, so that a wrong checkpoint is refused with
names and shapes before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mainspring.errors import WeightsError
from mainspring.models.transforms import Identity, Transform
from mainspring.nn.config import TransformerConfig
from mainspring.nn.transformer import Transformer

_SHOWN = 8


@dataclass(frozen=True)
class Rule:
    """A parameter of ours and the published tensors that hold the same numbers."""

    ours: str
    theirs: str | tuple[str, ...]
    transform: Transform = field(default_factory=Identity)


class Reading(NamedTuple):
    """What a checkpoint gave."""

    state: dict[str, Tensor]
    """Tensors by our names."""
    missing: tuple[str, ...]
    """Our names that the checkpoint does not have, where that was allowed."""


class _Entry(NamedTuple):
    ours: str
    theirs: tuple[str, ...]
    transform: Transform


@dataclass(frozen=True)
class WeightMap:
    """A family's table of names."""

    rules: Sequence[Rule]
    prefix: str = ""
    """Prefix of the bare model's names, which checkpoints without a head leave out."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Published names of tied tensors -> the tensor they equal; a checkpoint may hold either or both."""
    legacy: Mapping[str, str] = field(default_factory=dict)
    """Old endings of names -> today's."""
    ignored: Sequence[str] = ()
    """Regular expressions of published names that hold no weights (constant buffers)."""

    def read(
        self, theirs: Mapping[str, Tensor], config: TransformerConfig, *, allow_missing: bool = False
    ) -> Reading:
        """Turn a published state into ours.

        Args:
            theirs: tensors by published name.
            config: the model they are for.
            allow_missing: leave out what the checkpoint does not have, and list it.

        Raises:
            WeightsError: names are missing or unexpected, or shapes differ; all are listed.
        """
        shapes = expected_shapes(config)
        entries = self._entries(shapes, config)
        wanted = {name for entry in entries for name in entry.theirs}
        given = {self._current(name, wanted): tensor for name, tensor in theirs.items()}
        self._fill_from_aliases(given, wanted)
        unexpected = [n for n in given if n not in wanted and not self._may_be_dropped(n, given)]
        state: dict[str, Tensor] = {}
        missing: list[str] = []
        missing_ours: list[str] = []
        misshaped: list[str] = []
        for entry in entries:
            absent = [n for n in entry.theirs if n not in given]
            if absent:
                missing += absent
                missing_ours.append(entry.ours)
                continue
            tensors = [given[n] for n in entry.theirs]
            needed = entry.transform.write(torch.empty(shapes[entry.ours], device="meta"), config)
            wrong = [
                f"{n} is {list(t.shape)}, not {list(m.shape)}"
                for n, t, m in zip(entry.theirs, tensors, needed, strict=True)
                if t.shape != m.shape
            ]
            if wrong:
                misshaped += wrong
            else:
                state[entry.ours] = entry.transform.read(tensors, config)
        _refuse(
            [] if allow_missing else missing, unexpected, misshaped, "the checkpoint does not fit the model"
        )
        return Reading(state, tuple(missing_ours))

    def write(self, ours: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
        """Turn a state of ours into the published names and layouts; tied copies are written once.

        Raises:
            WeightsError: names are missing or unexpected, or shapes differ; all are listed.
        """
        shapes = expected_shapes(config)
        refuse_differences(ours, shapes, "the state is not this model's")
        result: dict[str, Tensor] = {}
        for entry in self._entries(shapes, config):
            result.update(zip(entry.theirs, entry.transform.write(ours[entry.ours], config), strict=True))
        return result

    def _entries(self, names: Mapping[str, torch.Size], config: TransformerConfig) -> list[_Entry]:
        patterns = [
            (re.compile(re.escape(rule.ours).replace(r"\{i\}", r"(\d+)")), rule) for rule in self.rules
        ]
        entries = []
        for name in names:
            found = next(((m, rule) for p, rule in patterns if (m := p.fullmatch(name))), None)
            if found is None:
                raise WeightsError(f"{name} has no counterpart in this family's published layout")
            match, rule = found
            theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
            layer = match[1] if match.groups() else ""
            filled = tuple(t.replace("{i}", layer) for t in theirs)
            every = tuple(one for t in filled for one in _each_expert(t, config))
            entries.append(_Entry(name, every, rule.transform))
        return entries

    def _current(self, name: str, wanted: set[str]) -> str:
        """Today's full name of a published tensor."""
        for old, new in self.legacy.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return self.prefix + name if name not in wanted and self.prefix + name in wanted else name

    def _fill_from_aliases(self, given: dict[str, Tensor], wanted: set[str]) -> None:
        for alias, name in self.aliases.items():
            if alias in given:
                if name not in given:
                    given[name] = given[alias]
                elif alias not in wanted and not torch.equal(given[alias], given[name]):
                    raise WeightsError(
                        f"{alias} differs from {name}, but the configuration says that they are tied; "
                        f"set tie_word_embeddings to false in config.json"
                    )

    def _may_be_dropped(self, name: str, given: Mapping[str, Tensor]) -> bool:
        return name in self.aliases or any(
            re.fullmatch(p, n) for p in self.ignored for n in (name, self.prefix + name)
        )


def _each_expert(pattern: str, config: TransformerConfig) -> list[str]:
    """The pattern, or with `{e}` in it a name for every expert."""
    if "{e}" not in pattern or config.experts is None:
        return [pattern]
    count = config.experts.count
    if not isinstance(count, int):
        raise WeightsError(
            f"experts.count = {list(count)}: the published layout has as many experts in every layer"
        )
    return [pattern.replace("{e}", str(expert)) for expert in range(count)]


def expected_shapes(config: TransformerConfig) -> dict[str, torch.Size]:
    """Names and shapes of the parameters of a model, without building it in memory."""
    with torch.device("meta"):
        return {name: p.shape for name, p in Transformer(config).state_dict().items()}


def refuse_differences(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str) -> None:
    """Refuse tensors by our names that are not those of a model.

    Args:
        state: the tensors.
        shapes: `expected_shapes` of the model.
        what: beginning of the message.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ; all are listed.
    """
    missing = [n for n in shapes if n not in state]
    unexpected = [n for n in state if n not in shapes]
    misshaped = [
        f"{n} is {list(state[n].shape)}, not {list(s)}"
        for n, s in shapes.items()
        if n in state and state[n].shape != s
    ]
    _refuse(missing, unexpected, misshaped, what)


def _refuse(missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str], what: str) -> None:
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if names
    ]
    if parts:
        raise WeightsError(f"{what}; {'; '.join(parts)}")
