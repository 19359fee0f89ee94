"""Models by their names on the hub: a small hub on this machine, and none at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import GatedRepoError

from mainspring.errors import UsageError, WeightsError
from mainspring.models import remote
from mainspring.models.remote import fetch, hub_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHOLE = {
    "config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"code",
    "onnx/model.safetensors": b"for another program",
}
MODELS = {"owner/whole": WHOLE, "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}}


class Hub(NamedTuple):
    """Where the small hub listens, and what was asked of it."""

    address: str
    asked: list[str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        """Answers for the two models as the hub does."""

        def do_GET(self) -> None:
            asked.append(self.path)
            path = self.path.split("?")[0]
            for name, files in MODELS.items():
                for revision in ("main", "v1", COMMIT):
                    if path == f"/api/models/{name}/revision/{revision}":
                        listed = [{"rfilename": file} for file in files]
                        facts = {"id": name, "sha": COMMIT, "siblings": listed}
                        return self._send(json.dumps(facts).encode())
                    if path == f"/api/models/{name}/tree/{revision}":
                        tree = [
                            {"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                            for file, data in files.items()
                        ]
                        return self._send(json.dumps(tree).encode())
                    prefix = f"/{name}/resolve/{revision}/"
                    if path.startswith(prefix) and path.removeprefix(prefix) in files:
                        return self._send(files[path.removeprefix(prefix)])
            known = any(path.startswith(f"/api/models/{name}/") for name in MODELS)
            return self._send(b"", 404, "RevisionNotFound" if known else "RepoNotFound")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _send(self, data: bytes, status: int = 200, code: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if code is not None:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_names_on_the_hub_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("microsoft/deberta-v3-base", "a/b.c_d", "owner/name@v1", "owner/name@refs/pr/3"):
        assert hub_id(name) and hub_id(Path(name))
    for path in ("models", "a/b/c", "/models/one", "./a/b", "../a/b", "a b/c", "a/-b", ""):
        assert not hub_id(path), path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert not hub_id("owner/name")


@pytest.mark.parametrize("name", ["owner/whole", "owner/whole@v1"])
def test_only_what_an_import_reads_is_fetched(hub: Hub, name: str, tmp_path: Path) -> None:
    folder = fetch(name, cache=tmp_path, endpoint=hub.address)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {n: WHOLE[n] for n in ("config.json", "tokenizer.json", "model.safetensors")}
    assert not any("onnx" in path or ".bin" in path or ".py" in path for path in hub.asked)


def test_what_was_fetched_is_found_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    folder = fetch("owner/whole", cache=tmp_path, endpoint=hub.address)
    assert fetch("owner/whole", cache=tmp_path, endpoint="http://127.0.0.1:9") == folder


def test_what_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"owner/none: .*no such model on the hub; check the spelling"):
        fetch("owner/none", cache=tmp_path, endpoint=hub.address)
    with pytest.raises(UsageError, match=r"owner/whole@v7: .*no revision 'v7'"):
        fetch("owner/whole@v7", cache=tmp_path, endpoint=hub.address)
    with pytest.raises(WeightsError, match=r"owner/pickled: .*no \*\.safetensors"):
        fetch("owner/pickled", cache=tmp_path, endpoint=hub.address)


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fetch("microsoft/deberta-v3-base", cache=tmp_path, endpoint="http://127.0.0.1:9")
    text = str(caught.value)
    assert text.startswith("microsoft/deberta-v3-base: there is no such folder here, and the hub cannot be")
    assert "`hf download microsoft/deberta-v3-base --local-dir DIR`" in text
    assert "\n" not in text


def test_models_for_those_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise GatedRepoError("asked for", response=MagicMock(headers={}))

    monkeypatch.setattr(remote, "snapshot_download", refuse)
    with pytest.raises(UsageError, match="owner/gated: .*hf auth login"):
        fetch("owner/gated", cache=tmp_path)
