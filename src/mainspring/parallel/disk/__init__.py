"""The disk tier of ZeRO: states and parameters in files (ZeRO-Infinity, Rajbhandari et al. 2021)."""

from mainspring.parallel.disk.placement import DiskPlacement
from mainspring.parallel.disk.store import Store

__all__ = ["DiskPlacement", "Store"]
