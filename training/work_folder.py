"""Where a run works: `OUTPUT.part`, until all is done. `OUTPUT` is there whole or not at all."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from training.errors import Stopped, TrainingError

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
        self.is_finished = False
        """Whether it is: before a kill, too."""
        self._whole = self._part / "whole"
        """It is there if the result is."""
        self._options = json.loads(json.dumps(options, default=str))
        self._overwrite = overwrite
        self._lock_path = output.with_name(f"{output.name}.lock")

    def __enter__(self) -> Self:
        """Open it.

        Raises:
            TrainingError: there is a result, or another run works here, or one was begun with other options.
        """
        if self.output.is_file() or not self.output.name:
            raise TrainingError(f"{self.output} is no folder to make: name another --output.")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        try:
            self._begin_or_go_on()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_begun = any(self.checkpoints.glob("*/*")) or any(self.scratch.glob("*"))
        goes_on = (error is not None) if self.is_finished else is_begun
        if not goes_on:
            shutil.rmtree(self._part, ignore_errors=True)
        self._release()
        if goes_on and isinstance(error, KeyboardInterrupt | Stopped) and not str(error):
            raise type(error)("Stopped. The same command goes on.") from None

    def finish(self) -> None:
        """Make the result the output. A command that is killed from here on finds it finished."""
        for weights in self.result.glob("*.safetensors"):
            weights.chmod((self.result / "config.json").stat().st_mode)  # their writer keeps them from others
        self._whole.touch()
        self._put_in_place()

    def _put_in_place(self) -> None:
        replaced = self._part / "replaced"
        if self.result.exists():
            if self.output.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                self.output.rename(replaced)
            self.result.rename(self.output)
        for folder in (self.checkpoints, self.scratch, replaced):
            shutil.rmtree(folder, ignore_errors=True)
        self.is_finished = True

    def _begin_or_go_on(self) -> None:
        path = self._part / _OPTIONS
        before = json.loads(path.read_text()) if path.exists() else self._options
        differing = [name for name in self._options if before.get(name) != self._options[name]]
        is_whole = self._whole.exists() and (self.result.exists() or self.output.exists())
        if is_whole and not differing:
            self._put_in_place()
            self.scratch.mkdir()
            return
        self._check_output()
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
        self._whole.unlink(missing_ok=True)
        self.scratch.mkdir(exist_ok=True)
        shutil.rmtree(self.result, ignore_errors=True)

    def _check_output(self) -> None:
        if self.output.exists() and not self._overwrite:
            raise TrainingError(f"{self.output} is there; name another --output, or --overwrite it.")
        if self.output.exists() and not (self.output / "config.json").is_file() and any(self.output.glob("*")):
            raise TrainingError(
                f"{self.output} is no result of this command, and is not replaced: name another --output."
            )

    def _locked(self) -> IO[str]:
        lock = self._lock_path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run that had it may have removed its name since it was opened: another may have a new file of this name.
            if os.path.samestat(os.fstat(lock.fileno()), self._lock_path.stat()):
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
        lock.close()
        raise TrainingError(f"another command works on {self.output}; wait for it, or name another --output.")

    def _release(self) -> None:
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()


def check_apart(option: str, path: Path, others: Iterable[Path]) -> None:
    """Check that what is written is not in what is read, nor the other way round.

    Raises:
        TrainingError: it is; the message names the option.
    """
    written = path.resolve()
    for other in others:
        read = other.resolve()
        if written.is_relative_to(read) or read.is_relative_to(written):
            raise TrainingError(
                f"{option} {path} and {other} are the same, or one is in the other: name another {option}."
            )


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
