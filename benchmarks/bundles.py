"""The models that are run, exported into a cache by another interpreter: a server's environment cannot export."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from app.bundle.manifest import Precision, Target, Task
from benchmarks.report import say

ROOT: Final = Path(__file__).parent.parent
SMALL: Final = ROOT / "tests/fixtures/checkpoints"
SMALL_MODELS: Final = tuple(sorted(path.parent.name for path in SMALL.glob("*/config.json")))
"""Checkpoints of every task and family, with random weights, each for one task."""
HEAD_SIZES: Final = ("heads-of-26", "heads-of-100", "heads-of-160")
MODELS: Final[Mapping[str, tuple[str, Task | Literal["auto"]]]] = MappingProxyType(
    {
        **{name: (name, "auto") for name in SMALL_MODELS},
        **{name: (name, "classify") for name in HEAD_SIZES},
        "demo": ("demo", "classify"),
        "demo-masked": ("demo", "fill-mask"),
        "demo-embed": ("demo", "embed"),
        "demo-next": ("demo", "next-sentence"),
        "tiny": ("tiny", "classify"),
        "base": ("base", "classify"),
        "minilm": ("minilm", "classify"),
        "large": ("large", "classify"),
    }
)
"""A checkpoint of `benchmarks.checkpoints` and its task, by the name of the bundle."""
TELLS_NOBODY: Final[Mapping[str, str]] = MappingProxyType({"CI": "true"})
"""OpenVINO's packages tell their maker that they are imported, but not where tests run."""
TORCH_PYTHON: Final = ROOT / ".venv-bench-torch/bin/python"
"""An environment with `requirements-torch.txt`."""
ModelForm = Literal["checkpoint", "padded-fp32", "padded-int8", "openvino", "openvino-int8", "ctranslate2-int8"]
"""What an engine of the peers reads."""
PRECISIONS: Final[Mapping[Target, tuple[Precision, ...]]] = MappingProxyType(
    {"cpu": ("fp32",), "cuda": ("fp16", "fp32")}
)
"""What is exported for a kind of device unless asked otherwise; the first is the one that is served."""

MADE_WITHIN_S: Final = 3600.0
"""Fine-tuning takes the longest: ten minutes on two free cores."""


class ExportFailed(Exception):
    """The other interpreter did not make what was asked of it; the message has the end of its output."""


class Bundles:
    """The bundles in a cache."""

    def __init__(
        self, export_python: Path, cache: Path, target: Target, precisions: tuple[Precision, ...] = ()
    ) -> None:
        self.precisions: Final = precisions or PRECISIONS[target]
        # The interpreter of an environment is a link: resolved, it would be the one that the environment was made from.
        self._python: Final = export_python.absolute()
        self.cache: Final = cache.resolve()
        self._target: Final = target

    def folder(self, name: str) -> Path:
        """Return the bundle of a model, alone in its folder, as today's export writes it.

        Raises:
            ExportFailed: there is none, and none can be made.
        """
        folder = self.cache / "bundles" / self._target / name / name
        # Not by the time of the files: a cache that is copied to another machine is as good there.
        exported_by, today = folder.with_suffix(".exported-by"), self._export_hash()
        if exported_by.exists() and exported_by.read_text() == today:
            return folder
        say(f"exporting {name} for {self._target}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        variants = ",".join(f"{self._target}-{precision}" for precision in self.precisions)
        self._run(
            self._python,
            *("model_export", "export", "--checkpoint", str(self.checkpoint(name)), "--task", MODELS[name][1]),
            *("--variants", variants, "--output", str(folder)),
            # Random weights decide nothing by a margin, so int8 may change any label of theirs.
            *(["--keep-inaccurate"] if "int8" in self.precisions else []),
        )
        exported_by.write_text(today)
        return folder

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a model's checkpoint.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        checkpoint, _ = MODELS[name]
        if checkpoint == "minilm":
            path = self.cache / "checkpoints" / checkpoint
            return self._made(path, TORCH_PYTHON, "benchmarks.finetune", str(self.cache))
        return Path(self._run(self._python, "benchmarks.checkpoints", checkpoint, str(self.cache)).strip())

    def peer_model(self, name: str, form: ModelForm) -> Path:
        """Return the file or folder of a model that an engine of the peers reads.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        checkpoint = self.checkpoint(name)
        if form == "checkpoint":
            return checkpoint
        path = self.cache / "peers" / f"{name}-{form}-{_hash(checkpoint / 'model.safetensors')[:8]}"
        if form.startswith("padded-"):
            precision = form.removeprefix("padded-")
            return self._made(
                path.with_suffix(".onnx"), self._python, "benchmarks.padded_graph", str(checkpoint), precision
            )
        return self._made(path, TORCH_PYTHON, "benchmarks.engine_models", form, str(checkpoint))

    def products(self, precision: Precision, count: int) -> Path:
        """Return a graph of so many matrix products and nothing else.

        Raises:
            ExportFailed: it is not there and cannot be made.
        """
        path = self.cache / "products" / f"{count}-{precision}.onnx"
        return self._made(path, self._python, "benchmarks.products", precision, str(count))

    def _made(self, path: Path, python: Path, module: str, *arguments: str) -> Path:
        """Return a file or folder, made by a module in one of the environments if it is not there."""
        if not path.exists():
            say(f"making {path.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                partial = Path(folder) / path.name
                self._run(python, module, str(partial), *arguments)
                partial.rename(path)
        return path

    def _run(self, python: Path, *module_and_arguments: str) -> str:
        command = [str(python), "-m", *module_and_arguments]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ | TELLS_NOBODY,
                capture_output=True,
                text=True,
                check=False,
                timeout=MADE_WITHIN_S,
            )
        except FileNotFoundError as error:
            raise ExportFailed(f"{python} is not there") from error
        if done.returncode:
            raise ExportFailed(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _export_hash(self) -> str:
        """Return what the code of the export, the demo checkpoint and the precisions make."""
        files = sorted(
            path for path in (ROOT / "model_export").rglob("*") if path.suffix in (".py", ".json", ".safetensors")
        )
        return hashlib.sha256(" ".join((*self.precisions, *map(_hash, files))).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
