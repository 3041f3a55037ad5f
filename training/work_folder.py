"""Where a run works: `OUTPUT.part`, until all is done. `OUTPUT` is there whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from filelock import FileLock, Timeout

from training.errors import TrainingError

_OPTIONS: Final = "options.json"


class WorkFolder:
    """The folder of one run, locked while it is open. The same command opens what a kill left there, and goes on."""

    def __init__(self, output: Path, options: Mapping[str, object], *, overwrite: bool) -> None:
        """Name it.

        Args:
            output: Where the result goes.
            options: What makes the result what it is: a run goes on only with the same.
            overwrite: Whether to replace a result that is there, and to begin anew what was begun with other options.
        """
        self.output = output
        self._part = output.with_name(f"{output.name}.part")
        self.checkpoints = self._part / "checkpoints"
        self.scratch = self._part / "scratch"
        """For what a command makes on its way; it is there after a kill, too."""
        self.result = self._part / "result"
        """What `finish` makes the output of."""
        self._options = json.loads(json.dumps(options, default=str))
        self._overwrite = overwrite
        self._lock = FileLock(output.with_name(f"{output.name}.lock"), timeout=0)

    def __enter__(self) -> Self:
        """Open it.

        Raises:
            TrainingError: there is a result, or another run works here, or one was begun with other options.
        """
        if self.output.exists() and not self._overwrite:
            raise TrainingError(f"{self.output} is there; name another --output, or --overwrite it.")
        if self.output.exists() and not (self.output / "config.json").is_file() and any(self.output.glob("*")):
            raise TrainingError(
                f"{self.output} is no result of this command, and is not replaced: name another --output."
            )
        if self.output.is_file() or not self.output.name:
            raise TrainingError(f"{self.output} is no folder to make: name another --output.")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise TrainingError(
                f"another command works on {self.output}; wait for it, or name another --output."
            ) from None
        try:
            self._begin_or_go_on()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._part.exists() and not any(self.checkpoints.glob("*/*")) and not any(self.scratch.iterdir()):
            shutil.rmtree(self._part)  # there is nothing to go on with
        self._release()

    def finish(self) -> None:
        """Make the result the output, and remove all else."""
        for weights in self.result.glob("*.safetensors"):
            weights.chmod((self.result / "config.json").stat().st_mode)  # their writer keeps them from others
        if self.output.exists():
            self.output.rename(self._part / "replaced")
        self.result.rename(self.output)
        shutil.rmtree(self._part)

    def _begin_or_go_on(self) -> None:
        if (path := self._part / _OPTIONS).exists():
            before = json.loads(path.read_text())
            differing = [name for name in self._options if before.get(name) != self._options[name]]
            if differing and not self._overwrite:
                raise TrainingError(
                    f"{self._part} is of a run with other options ({', '.join(differing)}): give the same to go on, "
                    "--overwrite to begin anew, or another --output."
                )
            if differing:
                shutil.rmtree(self._part)
        self._part.mkdir(exist_ok=True)
        if not path.exists():
            _write_whole(path, json.dumps(self._options, indent=2))
        self.scratch.mkdir(exist_ok=True)
        shutil.rmtree(self.result, ignore_errors=True)

    def _release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def fingerprint(paths: Iterable[Path]) -> str:
    """Return what tells files from others: a hash of what they hold, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)
