"""Versions of a stage's weights: each minibatch meets in backward the weights of its forward.

PipeDream (SOSP '19) section 3.3, weight stashing. A version is copied when an update would overwrite it
while a minibatch still needs it, and not before; a stage with nothing in flight keeps one copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Versions:
    """The weights of a module as of its last updates.

    The module's own parameters are always the newest version. A pass runs inside `using(version)`, in which
    the module has leaves with that version's numbers in place of its parameters. Buffers (running statistics)
    have one version.

    Args:
        module: the stage.
        stash: False lets every pass meet the newest weights, whenever it began.
    """

    def __init__(self, module: nn.Module, *, stash: bool = True) -> None:
        self.newest = 0
        """Number of updates made."""
        self.most = 1
        """Most versions that have been held at once."""
        self._stash = stash
        self._parameters = list(module.parameters())
        index = {id(p): i for i, p in enumerate(self._parameters)}
        self._places = [
            (owner, name, index[id(p)])
            for owner in module.modules()
            for name, p in owner._parameters.items()
            if p is not None
        ]
        self._leaves: dict[int, list[nn.Parameter]] = {}
        self._users: Counter[int] = Counter()
        self._floor: int | None = None

    def hold(self, version: int) -> None:
        """Keep a version until it is released."""
        self._users[version] += 1

    def release(self, version: int) -> None:
        """A minibatch needs a version no more."""
        self._users[version] -= 1
        self._discard()

    def keep_from(self, version: int | None) -> None:
        """Keep all versions from this one on, held or not; older ones go when they are released. None: keep
        what is held."""
        self._floor = version
        self._discard()

    @contextmanager
    def using(self, version: int) -> Iterator[None]:
        """Have the module compute with a version that is held or newest."""
        leaves = self._of(version)
        for owner, name, index in self._places:
            owner._parameters[name] = leaves[index]
        try:
            yield
        finally:
            for owner, name, index in self._places:
                owner._parameters[name] = self._parameters[index]

    def take_gradients(self, version: int) -> list[Tensor | None]:
        """The gradients that backward passes have left at a version, in the order of the parameters."""
        taken = [leaf.grad for leaf in self._of(version)]
        for leaf in self._of(version):
            leaf.grad = None
        return taken

    def before_update(self, gradients: Sequence[Tensor | None]) -> None:
        """Give the parameters their gradients and, where the newest weights are still needed, storage of
        their own. gradients: as `take_gradients` orders them."""
        kept = self._floor is not None and self._floor <= self.newest
        needed = self._stash and (kept or self._users[self.newest] > 0)
        if needed:
            self._of(self.newest)
        elif self._stash:
            self._leaves.pop(self.newest, None)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if needed:
                parameter.data = parameter.data.clone()
            parameter.grad = gradient

    def after_update(self) -> None:
        """Count the update."""
        for parameter in self._parameters:
            parameter.grad = None
        self.newest += 1
        self._discard()

    def restart(self, newest: int, previous: Sequence[Tensor] | None = None) -> None:
        """Begin from `newest` updates, the module holding that version.

        Args:
            newest: updates made.
            previous: parameters one update older, where they are needed.
        """
        self.newest, self._floor = newest, None
        self._leaves.clear()
        self._users.clear()
        if previous is not None:
            self._floor = newest - 1
            self._leaves[newest - 1] = [
                nn.Parameter(old.detach().clone(), p.requires_grad)
                for old, p in zip(previous, self._parameters, strict=True)
            ]

    def weights(self, version: int) -> list[Tensor]:
        """The parameters of a version that is held or newest, without their graph."""
        return [leaf.detach() for leaf in self._of(version)]

    def _of(self, version: int) -> list[nn.Parameter]:
        if not self._stash:
            version = 0
        if version not in self._leaves:
            assert version == self.newest or not self._stash, (version, self.newest)
            # `.data` has a version counter of its own: autograd must not take the next update for a write
            # to what a forward has saved; `before_update` has moved the parameters elsewhere by then.
            self._leaves[version] = [nn.Parameter(p.data, p.requires_grad) for p in self._parameters]
        return self._leaves[version]

    def _discard(self) -> None:
        if not self._stash:
            return
        for version in [v for v in self._leaves if v < self.newest]:
            if not self._users[version] and (self._floor is None or version < self._floor):
                del self._leaves[version]
        self.most = max(self.most, len({*self._leaves, self.newest}))
