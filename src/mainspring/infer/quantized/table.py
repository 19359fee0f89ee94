"""A table of tokens in a narrow format: rows to look up, and products with all of them for a tied head."""

from __future__ import annotations

from torch import Tensor, nn

from mainspring.infer.quantized.linear import QuantizedLinear


class QuantizedTable(nn.Module):
    """What `mainspring.nn.lookup.Table` does, with the rows of a quantised layer."""

    def __init__(self, rows: QuantizedLinear) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...], int64 -> fp32 [..., D]."""
        return self.rows.read_rows(ids)

    def scores(self, hidden: Tensor, count: int, bias: Tensor | None) -> Tensor:
        """See `Table.scores`."""
        return self.rows.multiply(hidden, bias, None, min(count, self.rows.out_features))

    @property
    def weight(self) -> Tensor:
        """The table in fp32, [V, D], made anew each time."""
        return self.rows.weight
