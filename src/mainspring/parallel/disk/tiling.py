"""A large linear layer as tiles that are computed one after the other (memory-centric tiling).

The weight of a linear layer from width h to 4h is the largest thing that ZeRO-3 has to gather at once. Cut
into tiles that are units of their own, only one of them is in memory at a time: its working memory falls by
the number of tiles, and the result is the same (Rajbhandari et al. 2021, arXiv 2104.07857, section 5.1.3).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from mainspring.errors import PlanError


class TiledLinear(nn.Module):
    """y = x W^T + b with W in `out_splits` times `in_splits` tiles.

    Args:
        in_features: last dimension of the input.
        out_features: last dimension of the output.
        bias: whether there is b.
        in_splits: pieces that the input is cut into; their products are added.
        out_splits: pieces that the output is made of.
        device, dtype: of the parameters.

    Raises:
        PlanError: there are more pieces than features.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        in_splits: int = 1,
        out_splits: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._columns = _cuts(in_features, in_splits, "in")
        self._rows = _cuts(out_features, out_splits, "out")
        self.tiles = nn.ModuleList(
            nn.Linear(right - left, bottom - top, bias=bias and left == 0, device=device, dtype=dtype)
            for top, bottom in pairwise(self._rows)
            for left, right in pairwise(self._columns)
        )
        """The tiles, row by row; the first of each row has its part of b."""
        self.reset_parameters()

    @classmethod
    def of(cls, linear: nn.Linear, *, in_splits: int = 1, out_splits: int = 1) -> TiledLinear:
        """The same function as `linear`, with copies of its values."""
        weight = linear.weight
        tiled = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            in_splits=in_splits,
            out_splits=out_splits,
            device=weight.device,
            dtype=weight.dtype,
        )
        if not weight.is_meta:
            tiled.load(weight, linear.bias)
        return tiled

    @torch.no_grad()
    def load(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take the values of a whole weight [out_features, in_features] and bias [out_features]."""
        for (top, bottom), row in zip(pairwise(self._rows), self._grid(), strict=True):
            for (left, right), tile in zip(pairwise(self._columns), row, strict=True):
                tile.weight.copy_(weight[top:bottom, left:right])
            if row[0].bias is not None and bias is not None:
                row[0].bias.copy_(bias[top:bottom])

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """The weight [out_features, in_features] and the bias [out_features], copied together."""
        rows = self._grid()
        weight = torch.cat([torch.cat([tile.weight.detach() for tile in row], 1) for row in rows])
        biases = [row[0].bias.detach() for row in rows if row[0].bias is not None]
        return weight, torch.cat(biases) if biases else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights as `nn.Linear` of the whole shape does: uniform up to 1 / sqrt(in_features)."""
        bound = self.in_features**-0.5
        for parameter in self.parameters():
            if not parameter.is_meta:
                parameter.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        pieces = [x[..., left:right] for left, right in pairwise(self._columns)]
        outputs: list[Tensor] = []
        for row in self._grid():
            total: Tensor = row[0](pieces[0])
            for tile, piece in zip(row[1:], pieces[1:], strict=True):
                total = total + tile(piece)
            outputs.append(total)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _grid(self) -> list[list[nn.Linear]]:
        tiles = [tile for tile in self.tiles if isinstance(tile, nn.Linear)]
        wide = len(self._columns) - 1
        return [tiles[start : start + wide] for start in range(0, len(tiles), wide)]


def _cuts(size: int, pieces: int, what: str) -> list[int]:
    if not 1 <= pieces <= size:
        raise PlanError(f"{what}_splits={pieces} of a dimension of {size}; give 1 to {size}")
    return [round(size * piece / pieces) for piece in range(pieces + 1)]
