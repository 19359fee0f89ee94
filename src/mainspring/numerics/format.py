"""What every narrow format does: boxes of elements along one dimension that share a scale."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.numerics.bits import pack_bits, unpack_bits
from mainspring.numerics.encoded import Encoded
from mainspring.numerics.rounding import Rounding


class Format(ABC):
    """A number format in which `box` elements, neighbours in one dimension, share a scale.

    For a matrix product boxes have to lie along the dimension that is summed over. The last box of a row may
    be shorter: it is filled up with zeros. A box that holds a NaN or an infinity reads NaN throughout, in
    every format; subnormals of fp32 count as 0 in formats whose scale is an exponent.

    Legend: N boxes, W elements of a box.
    """

    name: str
    """As `format_named` knows it."""
    box: int | None
    """Elements of a box; None: whole rows."""
    element_bits: int
    """Bits of an element's code."""
    scale_bits: int
    """Bits of what a box shares."""

    @property
    def bits(self) -> float:
        """Bits of an element with its part of the scale, in full boxes (without it, where rows are boxes)."""
        return self.element_bits + (self.scale_bits / self.box if self.box else 0)

    def quantize(
        self,
        x: Tensor,
        dim: int = -1,
        rounding: Rounding = "nearest",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The values that x has in this format, in the dtype of x.

        Args:
            x: floating point, of any shape with at least one dimension.
            dim: along which boxes lie.
            rounding: of elements.
            generator: of stochastic rounding.
        """
        boxes = self._boxes(x, dim)
        scales = self.scales(boxes)
        return self._rows(self.values(self.codes(boxes, scales, rounding, generator), scales), x, dim)

    def encode(
        self,
        x: Tensor,
        dim: int = -1,
        rounding: Rounding = "nearest",
        generator: torch.Generator | None = None,
    ) -> Encoded:
        """x in bytes; `decode` gives what `quantize` gives."""
        boxes = self._boxes(x, dim)
        scales = self.scales(boxes)
        codes = self.codes(boxes, scales, rounding, generator)
        return Encoded(pack_bits(codes.flatten(), self.element_bits), scales.flatten(), x.shape, dim % x.ndim)

    def join(self, codes: Tensor, scales: Tensor) -> Encoded:
        """Bytes of a matrix whose codes and scales were chosen in some other way than `encode` does.

        Args:
            codes: uint8 [rows, columns], of boxes along rows.
            scales: [rows, boxes of a row].
        """
        width = self._width(codes.shape[1])
        padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % width))
        return Encoded(pack_bits(padded.flatten(), self.element_bits), scales.flatten(), codes.shape, 1)

    def decode(self, encoded: Encoded, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values of what `encode` made."""
        like = torch.empty(encoded.shape, dtype=dtype, device="meta")
        scales = encoded.scales[:, None]
        width = self._width(encoded.shape[encoded.dim])
        codes = unpack_bits(encoded.codes, self.element_bits, len(scales) * width).view(len(scales), width)
        return self._rows(self.values(codes, scales), like, encoded.dim)

    def fits(self, encoded: Encoded) -> bool:
        """Whether its bytes are as many as its shape takes."""
        if not 0 <= encoded.dim < len(encoded.shape):
            return False
        length = encoded.shape[encoded.dim]
        width = self._width(length)
        boxes = encoded.shape.numel() // max(length, 1) * -(-length // width)
        codes = -(-boxes * width * self.element_bits // 8)
        return encoded.codes.numel() == codes and encoded.scales.numel() == boxes

    @abstractmethod
    def scales(self, boxes: Tensor) -> Tensor:
        """What boxes share: fp32 [N, W] -> [N, 1], uint8 or fp32."""

    @abstractmethod
    def codes(
        self, boxes: Tensor, scales: Tensor, rounding: Rounding, generator: torch.Generator | None
    ) -> Tensor:
        """Elements' codes under given scales: fp32 [N, W], [N, 1] -> uint8 [N, W]; the code of 0 is 0."""

    @abstractmethod
    def values(self, codes: Tensor, scales: Tensor) -> Tensor:
        """What codes say: fp32 [N, W]."""

    def _width(self, length: int) -> int:
        return max(length, 1) if self.box is None else self.box

    def _boxes(self, x: Tensor, dim: int) -> Tensor:
        """fp32 [N, W], filled up with zeros."""
        if not x.is_floating_point() or x.ndim == 0:
            raise UsageError(
                f"{self.name} takes a floating-point tensor with a dimension to lay boxes along; got "
                f"{x.dtype} of shape {list(x.shape)}"
            )
        rows = x.detach().movedim(dim, -1).float()
        width = self._width(rows.shape[-1])
        rest = -rows.shape[-1] % width
        return torch.nn.functional.pad(rows, (0, rest)).reshape(-1, width)

    def _rows(self, boxes: Tensor, like: Tensor, dim: int) -> Tensor:
        """Undo `_boxes`, for a tensor of the shape and dtype of `like`."""
        shape = like.movedim(dim, -1).shape
        width = self._width(shape[-1])
        rows = boxes.reshape(*shape[:-1], -(-shape[-1] // width) * width)[..., : shape[-1]]
        return rows.movedim(-1, dim).to(like.dtype)
