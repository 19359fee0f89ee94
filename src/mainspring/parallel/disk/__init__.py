"""The disk tier of ZeRO: states and parameters in files (ZeRO-Infinity, Rajbhandari et al. 2021)."""

from mainspring.parallel.disk.placement import DiskPlacement
from mainspring.parallel.disk.preflight import Preflight, Traffic, bytes_needed, preflight
from mainspring.parallel.disk.store import Store
from mainspring.parallel.disk.tiling import TiledLinear

__all__ = ["DiskPlacement", "Preflight", "Store", "TiledLinear", "Traffic", "bytes_needed", "preflight"]
