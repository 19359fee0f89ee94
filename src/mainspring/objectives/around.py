"""What objectives with modules of their own train: the network, with parts beside it, as one module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mainspring.nn.transformer import Transformer

_NETWORK = "network."


class AroundNetwork(nn.Module):
    """A network and what an objective needs beside it.

    Args:
        network: what the training is for.
    """

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network

    @property
    def remat(self) -> bool:
        """Whether layers are computed again in backward, in every network among the parts."""
        return self.network.remat

    @remat.setter
    def remat(self, on: bool) -> None:
        for part in self.children():
            if isinstance(part, Transformer):
                part.remat = on


def network_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network by its own names, out of a state of the whole."""
    return {name.removeprefix(_NETWORK): t for name, t in state.items() if name.startswith(_NETWORK)}
