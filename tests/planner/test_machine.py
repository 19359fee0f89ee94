"""Measuring this machine, and reading how much memory is left."""

import time

import torch

from mainspring.planner import Machine
from mainspring.planner.memory import available_memory
from mainspring.planner.processor import cpu_model, fast_instructions, multiplies_bf16


def test_measured_in_little_time_and_leaves_threads_as_they_were():
    threads = torch.get_num_threads()
    start = time.process_time()
    machine = Machine.measure(1, ranks=2)
    assert time.process_time() - start < 8  # of both cores together; bf16 may be emulated, and cores shared
    assert torch.get_num_threads() == threads
    assert 1e9 < machine.flops_fp32 < 1e14 and 1e8 < machine.flops_bf16 < 1e14
    assert 1e8 < machine.memory_bandwidth < 1e13 and 1e7 < machine.link_bandwidth < 1e12
    assert machine.memory > 2**28 and machine.cores >= 1 and (machine.threads, machine.ranks) == (1, 2)
    assert machine.flops("bf16") == machine.flops_bf16 and machine.flops("fp32") == machine.flops_fp32
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


def test_memory_is_the_least_of_system_and_cgroup(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:   600 kB\n")
    group = tmp_path / "cgroup"
    group.mkdir()
    assert available_memory(meminfo, group) == 600 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1024\n")
    assert available_memory(meminfo, group) == 600 * 1024
    (group / "memory.max").write_text("102400\n")
    assert available_memory(meminfo, group) == 99 * 1024
    (group / "memory.current").write_text("999999\n")
    assert available_memory(meminfo, group) == 0
    old = tmp_path / "old"
    (old / "memory").mkdir(parents=True)
    (old / "memory" / "memory.limit_in_bytes").write_text("204800")
    (old / "memory" / "memory.usage_in_bytes").write_text("4800")
    assert available_memory(meminfo, old) == 200000
    assert available_memory(tmp_path / "none", old) > 2**28


def test_a_processor_is_named_with_its_fast_instructions(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Maker 7\nflags\t\t: fpu avx2 amx_bf16 avx512_bf16\n")
    assert cpu_model(cpuinfo) == "Maker 7"
    assert fast_instructions(cpuinfo) == ("avx512_bf16", "amx_bf16")
    assert multiplies_bf16(cpuinfo) and not multiplies_bf16(tmp_path / "none")
    cpuinfo.write_text("model name : an Arm\nFeatures : fp asimd\n")
    assert fast_instructions(cpuinfo) == fast_instructions(tmp_path / "none") == ()
