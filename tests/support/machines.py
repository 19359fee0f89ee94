"""Machines with stated rates, for tests in which nothing is measured."""

from mainspring.planner import Machine

GPU = Machine(
    flops_fp32=6e13,
    flops_bf16=4e14,
    memory_bandwidth=2e12,
    link_bandwidth=2e11,
    memory=75 * 2**30,
    cores=16,
    threads=2,
    ranks=8,
    device="cuda",
)
"""A machine as large as the published recipes ask for; no rate of it is tested."""
