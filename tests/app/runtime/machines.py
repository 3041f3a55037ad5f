"""Bundles with graphs that were never exported, and a machine with a GPU that is not there."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Target
from app.bundle.session import PROVIDERS
from app.runtime import choice, session
from tests.app.memory import HostMemory
from tests.support import change_manifest


def variant(target: Target, precision: str) -> dict[str, Any]:
    file = {"file": f"{target}-{precision}.onnx", "sha256": "", "size_bytes": 0}
    parity = {"reference_max_abs_diff": 0, "alone_max_abs_diff": 0, "tolerance": 1, "checked_with": "onnxruntime"}
    return {"target": target, "precision": precision, "graph": file, "parity": parity}


def with_variants(folder: Path, *variants: tuple[Target, str]) -> Bundle:
    manifest = json.loads((folder / "manifest.json").read_text())
    [exported] = manifest["variants"]
    held = [exported if one == ("cpu", "fp32") else variant(*one) for one in variants]
    change_manifest(folder, variants=held)
    return load_bundle(folder)


def put(folder: Path, file: str, graph: bytes) -> None:
    """Put another graph into a bundle, as if it had been exported so."""
    (folder / file).write_bytes(graph)
    manifest = json.loads((folder / "manifest.json").read_text())
    for held in manifest["variants"]:
        if held["graph"]["file"] == file:
            held["graph"] |= {"sha256": hashlib.sha256(graph).hexdigest(), "size_bytes": len(graph)}
    change_manifest(folder, variants=manifest["variants"])


def graph_of(*inputs: str, operator: str = "Neg") -> bytes:
    """A graph of CUDA's inputs that a CPU session can load."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT32, ["tokens"]) for name in inputs]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["tokens"])
    cast = helper.make_node("Cast", [inputs[0]], ["wide"], to=TensorProto.FLOAT)
    last = helper.make_node(operator, ["wide"], ["logits"], name="last")
    graph = helper.make_graph([cast, last], "graph", values, [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


class Gpu:
    """What a machine has of CUDA, behind stand-ins: the sessions are the CPU's, which say that they are on CUDA."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.fell_back = False
        self.printed = ""
        self.options: list[tuple[Any, dict[str, str] | None]] = []
        self.see(0)

    def see(self, gpus: int) -> None:
        self.monkeypatch.setattr(choice, "count_gpus", lambda: gpus)

    def install(self, **broken: Exception) -> None:
        """Put onnxruntime-gpu there; of its steps, `libraries`, `session` or `run` may fail."""

        def step(name: str) -> None:
            if name in broken:
                raise broken[name]

        class Device(HostMemory):
            def __init__(self, _: str) -> None:
                super().__init__()
                step("libraries")

        class Session:
            def __init__(self, session: Any, providers: list[str]) -> None:
                self.session, self.get_providers = session, lambda: providers

            def run_with_iobinding(self, *arguments: Any) -> None:
                step("run")
                self.session.run_with_iobinding(*arguments)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.session, name)

        real = session._session

        def open_session(path: Path, options: Any, provider: str, provider_options: Any = None) -> Any:
            if provider == "CPUExecutionProvider":
                return real(path, options, provider)
            self.options.append((options, provider_options))
            step("session")
            made = real(path, options, "CPUExecutionProvider")
            return Session(made, ["CPUExecutionProvider"] if self.fell_back else [provider, "CPUExecutionProvider"])

        self.monkeypatch.setattr(ort, "get_available_providers", lambda: list(PROVIDERS.values()))
        self.monkeypatch.setattr(ort, "preload_dlls", lambda: sys.stdout.write(self.printed))
        self.monkeypatch.setattr(session, "Cuda", Device)
        self.monkeypatch.setattr(session, "_session", open_session)
        self.monkeypatch.setattr(session, "_missing_library", lambda: None)
