"""The host tier of ZeRO: masters, moments and the update on the host (ZeRO-Offload, Ren et al. 2021)."""

from mainspring.parallel.offload.placement import HostPlacement

__all__ = ["HostPlacement"]
