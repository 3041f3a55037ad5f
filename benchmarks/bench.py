"""What every part is given."""

from dataclasses import dataclass
from pathlib import Path

from app.bundle.cpus import usable_cpus
from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Precision, Target
from app.runtime.choice import open_runner
from app.runtime.runner import OrtRunner
from benchmarks.bundles import Bundles


@dataclass(frozen=True, slots=True)
class Bench:
    """The device, the models, and how often everything is measured."""

    device: Target
    bundles: Bundles
    rounds: int = 1

    @property
    def cores(self) -> int:
        return usable_cpus()

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What is measured, the precision that is served first."""
        return self.bundles.precisions

    def bundle(self, model: str) -> Bundle:
        return load_bundle(self.bundles.folder(model))

    def models_folder(self, model: str) -> Path:
        """Return the folder that a server of this one model is given."""
        return self.bundles.folder(model).parent

    def runner(
        self, model: str, precision: Precision, *, threads: int | None = None, gpu_memory_bytes: int = 0
    ) -> OrtRunner:
        """Return a runner as the server makes it."""
        return open_runner(
            self.bundle(model),
            device=self.device,
            precision=precision,
            threads=[threads or self.cores],
            gpu_memory_bytes=gpu_memory_bytes,
        )
