"""What the measurements run on: environments and models."""

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.checkpoints import checkpoint
from benchmarks.padded_graph import write_padded_graph

ROOT: Final = Path(__file__).parent.parent

_COMPARED: Final = ("onnxruntime", "fastapi", "uvicorn", "mosec", "litserve", "bentoml", "ray")


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where things are, and how many cores there are to share."""

    server_python: Path
    infinity_python: Path
    cache: Path

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    def checkpoint(self, name: str) -> Path:
        return checkpoint(name, self.cache)

    def graph(self, name: str) -> Path:
        """Return the peers' graph of a model."""
        path = self.cache / "padded" / f"{name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            write_padded_graph(self.checkpoint(name), partial)
            partial.rename(path)
        return path

    def bundle(self, name: str) -> Path:
        """Return this project's bundle of a model, alone in its folder, as today's export writes it."""
        path = self.cache / "models" / name / name
        manifest = path / "manifest.json"
        changed_at = max(source.stat().st_mtime for source in (ROOT / "model_export").glob("*.py"))
        if not manifest.exists() or manifest.stat().st_mtime < changed_at:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.run(
                *("-m", "model_export", "export", "--checkpoint", str(self.checkpoint(name)), "--task", "classify"),
                # Random weights decide nothing by a margin, so that int8 may change any label of theirs.
                *("--variants", ",".join(self.cpu_variants()), "--keep-inaccurate", "--output", str(path)),
            )
        return path

    def cpu_variants(self) -> list[str]:
        """Return the variants for CPUs that the export knows."""
        code = "import json; from model_export.export import VARIANTS; print(json.dumps(list(VARIANTS)))"
        return [name for name in json.loads(self.run("-c", code)) if name.startswith("cpu-")]

    def run(self, *arguments: str, **environment: str) -> str:
        """Run Python in the project's environment, with more variables in it, and return what it prints."""
        done = subprocess.run(
            [str(self.server_python), *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout


def versions(place: Workplace) -> dict[str, str]:
    """Return the versions of what is compared."""
    found = {name: version(name) for name in _COMPARED}
    code = "from importlib.metadata import version; print(version({!r}))"
    found["this server's onnxruntime"] = place.run("-c", code.format("onnxruntime")).strip()
    if place.infinity_python.exists():
        for name in ("infinity-emb", "torch"):
            command = [str(place.infinity_python), "-c", code.format(name)]
            found[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    found["Python"] = platform.python_version()
    return found
