"""What a plan costs: bytes, FLOPs, traffic, seconds; which plan is best; how the batch is cut."""

from mainspring.planner.batch import Batch, split_batch
from mainspring.planner.calibrate import calibrated
from mainspring.planner.candidate import Candidate
from mainspring.planner.cost import Cost, cost
from mainspring.planner.device import Device, device, devices
from mainspring.planner.estimate import Estimate, estimate
from mainspring.planner.fake import Verified, fake_world, verify
from mainspring.planner.inventory import Inventory, inventory_of, take_inventory
from mainspring.planner.machine import Machine, device_of
from mainspring.planner.parameters import ParameterCount, count_parameters
from mainspring.planner.prepare import Prepared, prepare
from mainspring.planner.published import published_layer_bytes
from mainspring.planner.search import Costed, Found, Rejected, Space, search
from mainspring.planner.work import Pass, Work, work_of

__all__ = [
    "Batch",
    "Candidate",
    "Cost",
    "Costed",
    "Device",
    "Estimate",
    "Found",
    "Inventory",
    "Machine",
    "ParameterCount",
    "Pass",
    "Prepared",
    "Rejected",
    "Space",
    "Verified",
    "Work",
    "calibrated",
    "cost",
    "count_parameters",
    "device",
    "device_of",
    "devices",
    "estimate",
    "fake_world",
    "inventory_of",
    "prepare",
    "published_layer_bytes",
    "search",
    "split_batch",
    "take_inventory",
    "verify",
    "work_of",
]
