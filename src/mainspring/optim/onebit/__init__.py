"""Optimizers that send signs: 1-bit Adam, 1-bit LAMB, 0/1 Adam."""

from mainspring.optim.onebit.adam import OneBitAdam
from mainspring.optim.onebit.lamb import OneBitLamb
from mainspring.optim.onebit.settled import Settled
from mainspring.optim.onebit.zero_one import ZeroOneAdam

__all__ = ["OneBitAdam", "OneBitLamb", "Settled", "ZeroOneAdam"]
