"""ZeRO stages 1 to 3 on flat shards: each unit's parameters joined in a row and cut evenly over ranks."""

from mainspring.parallel.zero.placement import Placement, Resident, Shard

__all__ = ["Placement", "Resident", "Shard"]
