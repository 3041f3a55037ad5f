"""What every part is given."""

from dataclasses import dataclass

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Precision, Target
from app.runtime.choice import open_runner
from app.runtime.runner import OrtRunner
from benchmarks.gpu_check.bundles import PRECISIONS, Bundles
from benchmarks.gpu_check.forms import Form


class NotRun(Exception):
    """A part has nothing to measure here; the message says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The device, how much is measured on it, and the models."""

    device: Target
    form: Form
    bundles: Bundles

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return PRECISIONS[self.device]

    @property
    def served_precision(self) -> Precision:
        return self.precisions[0]

    def bundle(self, model: str) -> Bundle:
        return load_bundle(self.bundles.folder(model))

    def runner(self, model: str, precision: Precision, *, gpu_memory_bytes: int = 0) -> OrtRunner:
        """Return a runner as the server makes it."""
        return open_runner(
            self.bundle(model),
            device=self.device,
            precision=precision,
            threads=usable_cpus(),
            gpu_memory_bytes=gpu_memory_bytes,
        )
