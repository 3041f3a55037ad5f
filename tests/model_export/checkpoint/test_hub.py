"""Checkpoints of the hub: a small hub on loopback, and the cache of one that is out of reach."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.model_export.support import CHECKPOINTS, ROOT

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TIMEOUT_S = 120


def export(name: str, output: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = ["export", "--checkpoint", name, "--output", str(output), "--variants", "cpu-fp32", *arguments]
    return subprocess.run(
        [sys.executable, "-m", "model_export", *command],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@dataclass
class Hub:
    """The checkpoint someone/mood, served as the hub does: a list of files, and each of them."""

    folder: Path
    cache: Path
    url: str = ""
    downloaded: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url, "HF_HUB_CACHE": str(self.cache), "NO_PROXY": "127.0.0.1"}

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(shutil.copytree(CHECKPOINTS / "bert-single-label", tmp_path / "served"), tmp_path / "cache")

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:
            path = unquote(self.path.split("?")[0])
            prefix = f"/someone/mood/resolve/{COMMIT}/"
            if path.startswith("/api/models/someone/mood/revision/"):
                siblings = [{"rfilename": name} for name in hub.files()]
                document = {"id": "someone/mood", "sha": COMMIT, "siblings": siblings}
                self.answer(200, json.dumps(document).encode())
            elif path == f"/api/models/someone/mood/tree/{COMMIT}":
                listed = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in hub.files()]
                self.answer(200, json.dumps(listed).encode())
            elif path.startswith(prefix) and (hub.folder / path.removeprefix(prefix)).is_file():
                name = path.removeprefix(prefix)
                content = (hub.folder / name).read_bytes()
                if self.command == "GET":
                    hub.downloaded.append(name)
                self.answer(200, content, etag=f'"{hashlib.sha1(content).hexdigest()}"', x_repo_commit=COMMIT)
            else:
                self.answer(404, b"", x_error_code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_takes_what_is_needed_and_no_more(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "onnx").mkdir()
    for name in ("onnx/model.onnx", "onnx/config.json", "pytorch_model.bin", "tf_model.h5", "README.md"):
        (hub.folder / name).write_bytes(b"of no use")
    done = export("someone/mood", tmp_path / "mood", "--revision", "v1", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.downloaded) == [
        "answers.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    source = json.loads((tmp_path / "mood" / "manifest.json").read_text())["source"]
    assert (source["checkpoint"], source["revision"]) == ("someone/mood", COMMIT)


def test_download_takes_the_settings_of_sentence_transformers(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / "bert-embed-dense", hub.folder, dirs_exist_ok=True)
    (hub.folder / "onnx").mkdir()
    (hub.folder / "onnx" / "config.json").write_bytes(b"of no use")
    done = export("someone/mood", tmp_path / "mood", **hub.environment)
    assert done.returncode == 0, done.stderr
    assert {"modules.json", "sentence_bert_config.json", "1_Pooling/config.json"} < set(hub.downloaded)
    assert {"2_Dense/config.json", "2_Dense/model.safetensors", "3_Normalize/config.json"} < set(hub.downloaded)
    assert "onnx/config.json" not in hub.downloaded
    manifest = json.loads((tmp_path / "mood" / "manifest.json").read_text())
    assert (manifest["task"], manifest["pooling"], manifest["normalizes"]) == ("embed", "mean", True)
    assert (manifest["embedding_size"], manifest["default_prompt_name"]) == (24, "topic")


def test_pickle_is_downloaded_where_there_is_nothing_better(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    (hub.folder / "pytorch_model.bin").write_bytes(b"not a pickle either")
    done = export("someone/mood", tmp_path / "mood", **hub.environment)
    assert done.returncode == 1
    assert "pytorch_model.bin" in hub.downloaded
    assert "pytorch_model.bin is " in done.stderr.splitlines()[-1]


def test_checkpoint_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    done = export("someone/else", tmp_path / "mood", "--revision", "v2", **hub.environment)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: someone/else is not a folder and could not be downloaded at revision v2")
    assert "Check --checkpoint" in error
    assert "Traceback" not in done.stderr


def test_cache_is_enough_when_the_hub_is_out_of_reach(tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--someone--mood"
    shutil.copytree(CHECKPOINTS / "bert-single-label", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    offline = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = export("someone/mood", tmp_path / "mood", "--revision", "main", **offline)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mood" / "manifest.json").read_text())["source"]["revision"] == COMMIT
