"""Examples with few features each: compressed rows, as scipy's csr_matrix has them, with targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mainspring.errors import DataError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SparseRows:
    """n examples: row i has features indices[indptr[i]:indptr[i + 1]] with the values beside them.

    Attributes:
        indptr: [n + 1] int64, from 0.
        indices: [nonzeros] int32, from 0; a row names a feature once.
        values: [nonzeros] float32.
        targets: [n] float32.
        features: how many there are; every index is below.
    """

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    values: Floats
    targets: Floats
    features: int

    def __post_init__(self) -> None:
        if len(self.indices) and int(self.indices.max()) >= self.features:
            raise DataError(
                f"feature {int(self.indices.max())} in the data, but the model has {self.features} features "
                f"(0 to {self.features - 1}); read it with features={int(self.indices.max()) + 1} or more"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def row(self, i: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """Features and values of a row."""
        part = slice(int(self.indptr[i]), int(self.indptr[i + 1]))
        return self.indices[part], self.values[part]

    def counts(self) -> npt.NDArray[np.int64]:
        """In how many rows each feature stands: [features]."""
        return np.bincount(self.indices, minlength=self.features)

    def margins(self, weights: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """w.x of every row: [n] float64."""
        products = np.zeros(len(self.indices) + 1)
        np.cumsum(self.values * weights[self.indices].astype(np.float64), out=products[1:])
        return products[self.indptr[1:]] - products[self.indptr[:-1]]

    @classmethod
    def dense(cls, matrix: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> SparseRows:
        """Rows of a matrix [n, features]; zeros are left out."""
        at = matrix != 0
        indptr = np.zeros(len(matrix) + 1, dtype=np.int64)
        np.cumsum(at.sum(1), out=indptr[1:])
        indices = np.nonzero(at)[1].astype(np.int32)
        return cls(
            indptr, indices, matrix[at].astype(np.float32), targets.astype(np.float32), matrix.shape[1]
        )
