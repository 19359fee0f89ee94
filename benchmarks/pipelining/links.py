"""Ranks in network namespaces of their own, joined by links of a stated rate (Linux, root)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class NotPermitted(Exception):
    """Namespaces or traffic control cannot be had here; says why."""


@contextmanager
def namespaces(ranks: int, mbit: int) -> Iterator[list[str]]:
    """Make a namespace for each rank, joined by a switch in one more; all are removed at the end.

    Every rank has one interface, eth0. What it sends and what is sent to it pass a token bucket (tc tbf) of
    `mbit` each, as on a full-duplex cable.
    """
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NotPermitted(f"there is no `{tool}` command (package iproute2)")
    tag = f"mspd{os.getpid()}"
    switch, names = f"{tag}s", [f"{tag}r{rank}" for rank in range(ranks)]
    bucket = f"tbf rate {mbit}mbit burst {max(64, mbit)}kb latency 50ms"
    try:
        _do(f"ip netns add {switch}")
        _in(switch, "ip link add br0 type bridge", "ip link set br0 up")
        for rank, name in enumerate(names):
            _do(f"ip netns add {name}")
            _in(switch, f"ip link add p{rank} type veth peer name eth0 netns {name}")
            _in(
                switch,
                f"ip link set p{rank} master br0",
                f"ip link set p{rank} up",
                f"tc qdisc add dev p{rank} root {bucket}",
            )
            _in(
                name,
                "ip link set lo up",
                f"ip addr add 10.77.0.{rank + 1}/24 dev eth0",
                "ip link set eth0 up",
                f"tc qdisc add dev eth0 root {bucket}",
            )
        yield names
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _in(name: str, *commands: str) -> None:
    for command in commands:
        _do(f"ip netns exec {name} {command}")


def _do(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPermitted(f"`{command}`: {done.stderr.strip() or f'exit status {done.returncode}'}")
