"""Where predictions and bad rows go, and what is known of how far a run is."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from app.predict.faults import CannotWrite, WrongUse
from app.predict.source import Position


class Counts(BaseModel):
    """The rows that have been read: predicted ones, of which some were cut to the model's maximum length, and bad ones."""

    model_config = ConfigDict(frozen=True)

    predicted: int = 0
    truncated: int = 0
    bad: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.predicted + self.bad


class Progress(BaseModel):
    """What a run has done: of what, how far, and how much of its files counts, in bytes."""

    model_config = ConfigDict(frozen=True)

    run: dict[str, Any]
    """The options and the model; a run goes on only with the same."""
    position: Position
    counts: Counts
    output_bytes: int
    bad_bytes: int
    header: list[str] | None
    is_complete: bool = False


class Output(ABC):
    """Where predictions and bad rows go: a context that closes the files."""

    progress: Progress | None = None
    """What was committed last, at first by the run before; None for a new one."""
    hint: ClassVar[str] = ""
    """What is told of a run that was stopped."""

    @property
    @abstractmethod
    def where_bad(self) -> str:
        """Where the bad rows are, as the end of a sentence."""

    @abstractmethod
    def begin_anew(self) -> None:
        """Forget the run before. Raises as `write`."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def write(self, lines: bytes, bad: bytes) -> None:
        """Append lines.

        Raises:
            CannotWrite: the system says so.
        """

    @abstractmethod
    def commit(self, position: Position, counts: Counts, header: list[str] | None) -> None:
        """Make what is written count: of the input, that is all up to a position. Raises as `write`."""

    @abstractmethod
    def finish(self) -> None:
        """Give the files their names, after the last `commit`. Raises as `write`."""


class StreamOutput(Output):
    """Predictions to stdout, as they come. Bad rows go to a file if one is named."""

    def __init__(self, bad_path: Path | None, *, overwrite: bool) -> None:
        """Open the file of the bad rows.

        Raises:
            WrongUse: it is there, and is not to be replaced.
            CannotWrite: the system says so.
        """
        self._bad: BinaryIO | None = None
        if bad_path is not None:
            refuse_existing(bad_path, overwrite=overwrite)
            with writing(bad_path):
                self._bad = bad_path.open("wb")

    @property
    def where_bad(self) -> str:
        return "; --bad-rows names a file for them" if self._bad is None else f": {self._bad.name}"

    def write(self, lines: bytes, bad: bytes) -> None:
        with writing("stdout"):
            sys.stdout.buffer.write(lines)
            sys.stdout.buffer.flush()
        if self._bad is not None:
            with writing(self._bad.name):
                self._bad.write(bad)
                self._bad.flush()

    def commit(self, position: Position, counts: Counts, header: list[str] | None) -> None:
        """Do nothing: what is written cannot be taken back."""

    def finish(self) -> None:
        """Do nothing."""

    def begin_anew(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        if self._bad is not None:
            self._bad.close()


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Pass if a file may get this name.

    Raises:
        WrongUse: there is one.
    """
    if path.exists() and not overwrite:
        raise WrongUse(f"{path} is there already. Name another output, or replace it with --overwrite.")


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Raise what the system says of a file as CannotWrite."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path}: {error.strerror}.") from error
