"""Keys, paths, headers, logs, and no pickle."""

import json
import pickle
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import mainspring
from mainspring.cli.main import main
from mainspring.errors import UsageError
from mainspring.infer import Engine
from mainspring.serve.keys import read_keys
from mainspring.serve.server import run
from support.scripted import Scripted, Served, client_of
from support.toy import export_toy

KEY, OTHER = "a-key-of-twenty-signs", "another-key-of-theirs"


def test_a_key_is_asked_for() -> None:
    with client_of(Scripted(), keys=(KEY, OTHER)) as client:
        for path in ("/", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/metrics", "/nowhere"):
            assert client.get(path).status_code == 401
        for header in ("", "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY):
            response = client.post("/v1/completions", json={"prompt": "x"}, headers={"authorization": header})
            assert response.status_code == 401, header
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        for key in (KEY, OTHER):
            for scheme in ("Bearer", "bearer"):
                headers = {"authorization": f"{scheme} {key}"}
                assert (
                    client.post("/v1/completions", json={"prompt": "x"}, headers=headers).status_code == 200
                )


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}\n\n  {OTHER}  \n")
    assert read_keys(path) == (KEY, OTHER)
    for text, words in (
        ("", "no API key"),
        ("short\n", "5 characters"),
        (KEY + " x\n", "space"),
        ("é" * 20, "ASCII"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            read_keys(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_a_line_of_json_for_each_request() -> None:
    lines: list[str] = []
    with client_of(Scripted(), log=lines.append) as client:
        client.post(
            "/v1/completions", json={"prompt": "abc", "max_tokens": 4}, headers={"x-request-id": "one.1"}
        )
        client.get('/no"where\u2028')
    first, second = (json.loads(line) for line in lines)
    assert "\n" not in lines[1]
    assert first["request"] == "one.1"
    assert (first["method"], first["path"], first["status"]) == ("POST", "/v1/completions", 200)
    assert (first["model"], first["prompt_tokens"], first["completion_tokens"]) == ("m", 3, 4)
    assert first["finished"] is True
    assert 0 < first["seconds"] < 10
    assert re.fullmatch(r"[0-9a-f]{32}", second["request"])
    assert second["status"] == 404


@pytest.mark.parametrize("number", [b"a b", b"x" * 65, b"a;b", b"\xff", b""])
def test_what_a_client_calls_its_request_is_checked(number: bytes) -> None:
    with client_of(Scripted()) as client:
        given = client.get("/healthz", headers={b"x-request-id": number}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", given)
        given = client.get("/healthz", headers={"x-request-id": "ok-1_2.3"}).headers["x-request-id"]
        assert given == "ok-1_2.3"


def test_headers_cannot_be_injected(serve: Callable[..., Served]) -> None:
    """Raw bytes to a real server: a line end in a header's value is not answered back."""
    server = serve()
    host, port = server.url.removeprefix("http://").split(":")
    attacks = [
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: a\rset-cookie: evil=1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-request-id: a\nset-cookie: evil=1\r\n\r\n",
        b"GET /v1/models/%0d%0aset-cookie:%20evil=1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /x\r\nset-cookie: evil=1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ]
    for attack in attacks:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(attack)
            connection.settimeout(2)
            answer = connection.recv(65536)
        head = answer.split(b"\r\n\r\n")[0].lower()
        assert b"\nset-cookie" not in head, attack
    assert server.stop()[0] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/../../../etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/static/../page.html",
        "/v1/models/%00",
    ],
)
def test_no_path_leads_to_a_file(path: str, serve: Callable[..., Served]) -> None:
    with client_of(Scripted()) as client:
        response = client.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


def test_a_model_name_is_not_a_path() -> None:
    with client_of(Scripted()) as client:
        for name in ("../../etc/passwd", "/etc/passwd", "m/../m", "m\u0000"):
            response = client.post("/v1/completions", json={"model": name, "prompt": "x"})
            assert response.status_code == 404


def test_the_default_is_this_machine_alone(tmp_path: Path, serve: Callable[..., Served]) -> None:
    import inspect

    assert inspect.signature(run).parameters["host"].default == "127.0.0.1"
    toy = export_toy(tmp_path / "toy")
    server = serve(sys.executable, "-m", "mainspring", "serve", str(toy), "--port", "0")
    assert server.url.startswith("http://127.0.0.1:")
    assert server.stop()[0] == 0


def test_whoever_opens_it_to_others_is_told(tmp_path: Path, serve: Callable[..., Served]) -> None:
    toy = export_toy(tmp_path / "toy")
    server = serve(sys.executable, "-m", "mainspring", "serve", str(toy), "--port", "0", "--host", "0.0.0.0")
    code, rest = server.stop()
    assert code == 0
    assert "no API key is asked for" in rest


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (self.mark,))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.safetensors", "weights.pkl", "model.pth"]
)
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    toy, mark = export_toy(tmp_path / "toy"), tmp_path / "mark"
    weights = toy / "model.safetensors"
    assert weights.is_file()
    weights.unlink()
    if name.endswith(".pkl"):
        (toy / name).write_bytes(pickle.dumps(Trap(mark)))
    else:
        torch.save({"weight": Trap(mark)}, toy / name)
    with pytest.raises(UsageError) as refused:
        Engine.load(toy)
    assert not mark.exists()
    assert main(["serve", str(toy), "--port", "0"]) == 2
    assert not mark.exists()
    if name != "model.safetensors":
        assert "pickle" in str(refused.value)
        assert "safetensors" in str(refused.value)


def test_nothing_in_the_package_unpickles_a_file() -> None:
    """`torch.load` and `pickle.load` appear nowhere on a load path."""
    source = Path(mainspring.__file__).parent
    found = {
        str(path.relative_to(source)): line.strip()
        for folder in ("infer", "serve", "models", "text", "train", "cli")
        for path in sorted((source / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\b(pickle\.loads?|torch\.load|joblib\.load|np\.load|numpy\.load)\(", line)
    }
    assert {
        k: v for k, v in found.items() if "weights_only=True" not in v and "allow_pickle=False" not in v
    } == {}
