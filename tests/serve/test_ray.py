"""The Ray Serve example, on a local Ray with two replicas."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mainspring.infer import Engine, GenerateOptions
from support.toy import export_toy

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve" / "ray" / "deploy.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'mainspring[ray]'"
    ),
]


def ask(url: str, body: dict[str, object]) -> dict[str, object]:
    headers = {"content-type": "application/json"}
    request = Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=60) as response:
        answer: dict[str, object] = json.loads(response.read())
    return answer


STATES = """
import json, ray
from ray import serve
ray.init(address="auto", log_to_driver=False)
states = serve.status().applications["mainspring"].deployments["mainspring"].replica_states
print(json.dumps({state: count for state, count in states.items()}))
"""


def running(environment: dict[str, str]) -> dict[str, int]:
    """Replicas by state, as Ray counts them."""
    command = [sys.executable, "-c", STATES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    states: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return states


def test_two_replicas_answer_as_one_engine(tmp_path: Path) -> None:
    toy = export_toy(tmp_path / "toy")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path])
    log = tmp_path / "log"
    with log.open("w") as out:
        settings = ["--replicas", "2", "--cores", "0.5", "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), str(toy), *settings],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 240
        while True:
            try:
                with urlopen(f"{url}/readyz", timeout=5) as response:
                    if response.status == 200:
                        break
            except OSError:
                pass
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        assert running(environment) == {"RUNNING": 2}
        engine = Engine.load(toy)
        for number in range(16):
            options = GenerateOptions(max_tokens=12, temperature=0.8, seed=number)
            expected = engine.generate(["the cat"], options)[0]
            body = {"prompt": "the cat", "max_tokens": 12, "temperature": 0.8, "seed": number}
            (choice,) = ask(url, body)["choices"]  # type: ignore[misc]
            assert choice["text"] == expected.text
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        stop = [sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"]
        subprocess.run(stop, env=environment, check=False)
