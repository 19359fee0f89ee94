"""Serve a model on more than one machine: Ray Serve spreads requests over replicas of the same application.

    ray start --head                      # on the first machine
    ray start --address FIRST:6379        # on the others
    python deploy.py runs/quickstart --replicas 4

Each replica is the application that `mainspring serve` runs: its own model, running batch and kept prefixes.
The model's files have to be on every machine at the same path (a shared file system, or a copy).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ray import serve

from mainspring.infer import Engine
from mainspring.infer.batching import BatchSettings
from mainspring.serve import Limits, create_app, serve_engine


def application(
    path: str, *, precision: str = "fp32", replicas: int = 1, cores: float = 1.0, slots: int = 16
) -> Any:
    """A Ray Serve application of one model.

    Args:
        path: what `mainspring.infer.Engine.load` takes, on every machine.
        precision: what it computes in.
        replicas: copies of the model.
        cores: processor cores of each.
        slots: completions that a replica writes side by side.
    """

    def build() -> Any:
        engine = Engine.load(path, precision=precision)
        model = serve_engine(engine, batching=BatchSettings(slots=slots), folder=Path(path))
        return create_app({engine.name: model}, limits=Limits())

    @serve.deployment(
        name="mainspring",
        num_replicas=replicas,
        # The application refuses by itself what it has no room for (429); Ray has to let it through.
        max_ongoing_requests=4 * slots + 64,
        ray_actor_options={"num_cpus": cores},
        graceful_shutdown_timeout_s=20,
    )
    @serve.ingress(build)
    class Replica:
        """One copy of the application."""

    return Replica.bind()


def main() -> None:
    """Deploy and wait for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="run, checkpoint or exported model")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, int8, int4, ...")
    parser.add_argument("--replicas", type=int, default=1, help="copies of the model")
    parser.add_argument("--cores", type=float, default=1.0, help="processor cores of each")
    parser.add_argument("--slots", type=int, default=16, help="completions a replica writes side by side")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port")
    given = parser.parse_args()
    serve.start(http_options={"host": given.host, "port": given.port})
    app = application(
        given.path, precision=given.precision, replicas=given.replicas, cores=given.cores, slots=given.slots
    )
    serve.run(app, name="mainspring", route_prefix="/", blocking=True)


if __name__ == "__main__":
    main()
