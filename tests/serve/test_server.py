"""A real server on loopback: a random model is asked, a client leaves, and signals stop it."""

import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from mainspring.errors import UsageError
from mainspring.infer import Engine, GenerateOptions
from mainspring.serve.server import address, listen
from support.scripted import Served
from support.toy import export_toy

Serve = Callable[..., Served]
RUN = """
import sys
from mainspring.serve import run
run(sys.argv[1], port=0, grace=2, on_ready=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in the Hugging Face layout."""
    return export_toy(tmp_path_factory.mktemp("served") / "toy")


def post(url: str, body: dict[str, object]) -> bytes:
    request = Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urlopen(request, timeout=60) as response:
        answer: bytes = response.read()
    return answer


def metric(url: str, name: str) -> float:
    with urlopen(f"{url}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def test_a_model_is_served_until_sigterm(serve: Serve, exported: Path) -> None:
    server = serve(sys.executable, "-c", RUN, str(exported))
    assert server.url.startswith("http://127.0.0.1:")
    body = json.loads(post(server.url, {"prompt": "the cat", "max_tokens": 20, "temperature": 0}))
    expected = Engine.load(exported).generate(["the cat"], GenerateOptions(max_tokens=20))[0]
    assert body["model"] == "toy"
    assert body["choices"][0]["text"] == expected.text
    assert body["usage"]["completion_tokens"] == expected.tokens
    stream = post(
        server.url, {"prompt": "the cat", "max_tokens": 20, "temperature": 0, "stream": True}
    ).decode()
    chunks = [json.loads(e[6:]) for e in stream.split("\n\n")[:-2]]
    assert "".join(c["choices"][0]["text"] for c in chunks) == expected.text
    assert server.stop(signal.SIGTERM) == (0, "")


def test_an_idle_connection_is_the_clients_to_close(serve: Serve) -> None:
    """uvicorn's own 5 seconds end while common clients still hold the connection in their pools."""
    connection = HTTPConnection(serve().url.removeprefix("http://"), timeout=20)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    held = connection.sock
    time.sleep(5.5)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    assert connection.sock is held
    connection.close()


def test_an_answer_under_way_is_finished_before_the_end(serve: Serve) -> None:
    server = serve(pause=0.02, text="x" * 30)
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(post(server.url, {"prompt": "a", "max_tokens": 30}))
    )
    asking.start()
    while metric(server.url, "mainspring_in_flight") == 0:
        time.sleep(0.01)
    assert server.stop(signal.SIGTERM) == (0, "")
    asking.join(20)
    assert json.loads(answers[0])["choices"][0]["text"] == "x" * 30


def test_an_answer_that_outlasts_the_grace_is_told(serve: Serve) -> None:
    server = serve(pause=0.02, text="x" * 3000)
    answers = []
    body = {"prompt": "a", "max_tokens": 3000, "stream": True}
    asking = threading.Thread(target=lambda: answers.append(post(server.url, body)))
    asking.start()
    while metric(server.url, "mainspring_generated_tokens_total") == 0:
        time.sleep(0.01)
    assert server.stop(signal.SIGTERM) == (0, "")
    asking.join(20)
    *_, last, end = answers[0].decode().split("\n\n")
    assert end == ""
    assert json.loads(last[6:])["error"]["message"] == "the server is stopping"


def test_a_client_that_leaves_ends_its_generation(serve: Serve) -> None:
    server = serve(pause=0.01, text="x" * 2000)
    host, port = server.url.removeprefix("http://").split(":")
    for left, stream in enumerate((True, False), start=1):
        before = metric(server.url, "mainspring_generated_tokens_total")
        body = json.dumps({"prompt": "a", "max_tokens": 2000, "stream": stream}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            while metric(server.url, "mainspring_generated_tokens_total") < before + 3:
                time.sleep(0.01)
        deadline = time.monotonic() + 10
        while metric(server.url, "mainspring_in_flight") > 0:
            assert time.monotonic() < deadline, "the generation goes on without its client"
            time.sleep(0.01)
        assert metric(server.url, "mainspring_cancelled_total") == left
        assert metric(server.url, "mainspring_generated_tokens_total") < before + 1000


def test_an_address_that_is_taken_or_is_not_ours() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert address(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(UsageError, match=f"port {port}.*choose another"):
            listen("127.0.0.1", port)
    with pytest.raises(UsageError, match="0 .* to 65535"):
        listen("127.0.0.1", 70000)
    with pytest.raises(UsageError, match="192.0.2.1"):
        listen("192.0.2.1", 0)
