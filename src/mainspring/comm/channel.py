"""What `mainspring.comm` keeps for each process group: its shared memory, its time-out, its debug mode."""

from __future__ import annotations

import weakref
from datetime import timedelta

import torch
import torch.distributed as dist

from mainspring.comm.ledger import Ledger
from mainspring.comm.memory import NotShared
from mainspring.comm.transport import Transport
from mainspring.errors import CollectiveError


class Channel:
    """One process group as `mainspring.comm` knows it. It holds no reference to the group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.timeout = _timeout(group)
        self.debug = False
        self.why_not: str | None = None
        """Why there is no shared memory; None where there is, or nobody asked yet."""
        self.transport: Transport | None = None
        self.ledger: Ledger | None = None
        """Where operations are noted that do not go through shared memory (gloo only)."""
        self._tried = False

    def begin(self, group: dist.ProcessGroup | None, device: torch.device, what: str) -> Transport | None:
        """Enter the collective `what`: note it where the other ranks can read it, in debug mode compare it
        with theirs, and say how it travels.

        The first call of a group sets shared memory up, as a collective of the group.

        Returns:
            The shared-memory transport where it serves tensors of `device`, else None.

        Raises:
            CollectiveError: (debug mode) the ranks do not do the same; or the group failed.
        """
        if not self._tried:
            self._setup(group, what)
        if self.transport is not None and device.type == "cpu":
            self.transport.peers.enter(what, compare=self.debug)
            return self.transport
        if self.ledger is not None:
            self.ledger.enter(what)
            if self.debug:
                self.ledger.compare(group, what, self.timeout)
        return None

    def explain(self, what: str, error: RuntimeError) -> CollectiveError:
        """What to raise when the backend gave up on `what`."""
        late = "" if self.ledger is None else f"; {self.ledger.report()}"
        return CollectiveError(f"{what} failed: {error}{late}")

    def set_timeout(self, group: dist.ProcessGroup | None, seconds: float) -> None:
        """Let a collective take `seconds` from now on."""
        self.timeout = seconds
        _key(group).set_timeout(timedelta(seconds=seconds))
        if self.transport is not None:
            self.transport.peers.timeout = seconds

    def disable(self, reason: str) -> None:
        """Do without shared memory from now on."""
        if self.transport is not None:
            self.transport.peers.close()
        self.transport, self.why_not = None, reason

    def close(self) -> None:
        """Give the memory back."""
        self.disable("the group has been destroyed")
        self._tried = True

    def _setup(self, group: dist.ProcessGroup | None, what: str) -> None:
        self._tried = True
        backend = dist.get_backend(group)
        if backend != "gloo":
            self.why_not = f"the backend of the group is {backend}, not gloo"
        elif dist.get_world_size(group) == 1:
            self.why_not = "the group has one rank"
        else:
            self.ledger = Ledger(_key(group), dist.get_rank(group), dist.get_world_size(group))
            if self.why_not is not None:
                return
            self.ledger.enter(what)
            try:
                self.transport = Transport(group, self.timeout)
            except NotShared as reason:
                self.why_not = str(reason)
            except RuntimeError as error:
                raise self.explain(what, error) from error


_channels: weakref.WeakKeyDictionary[dist.ProcessGroup, Channel] = weakref.WeakKeyDictionary()


def channel(group: dist.ProcessGroup | None) -> Channel:
    """The channel of `group` (None: the default group)."""
    key = _key(group)
    found = _channels.get(key)
    if found is None:
        for old in [known for known in _channels if not _alive(known)]:
            _channels.pop(old).close()
        found = _channels[key] = Channel(key)
        weakref.finalize(key, found.close)
    return found


def _key(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    key: dist.ProcessGroup | None = group if group is not None else dist.group.WORLD
    assert key is not None, "there is no process group"
    return key


def _alive(group: dist.ProcessGroup) -> bool:
    try:
        dist.get_process_group_ranks(group)
    except (KeyError, ValueError, RuntimeError):
        return False
    return True


def _timeout(group: dist.ProcessGroup) -> float:
    try:
        options = group._get_backend(torch.device("cpu")).options
    except RuntimeError:
        return 600.0
    limit: timedelta = options._timeout
    return limit.total_seconds()
