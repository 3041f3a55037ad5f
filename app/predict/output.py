"""The output of a run that may end at any moment, and go on later without a lost or doubled row.

Rows are appended to `OUTPUT.part` and, if they are bad, to that of the bad rows. From time to time both are made durable, and then
`OUTPUT.progress` says how much of them counts, and how far the input had been read. A run that goes on cuts off what does not
count. At the end the files get their names, the output last.
"""

import fcntl
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from app.predict.faults import CannotWrite, WrongUse
from app.predict.source import Position

PART: Final = ".part"
PROGRESS: Final = ".progress"
NEW_PROGRESS: Final = ".new"
"""What the names of files end with until a run is done."""


def files_of(path: Path, bad_path: Path) -> list[Path]:
    """Return all files that a run writes."""
    ends = [(path, end) for end in ("", PART, PROGRESS, NEW_PROGRESS)] + [(bad_path, end) for end in ("", PART)]
    return [one.with_name(f"{one.name}{end}") for one, end in ends]


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
    """The options, model and input; a run goes on only with the same."""
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
    def is_complete(self) -> bool:
        """Whether the run before had done all."""
        return self.progress is not None and self.progress.is_complete

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


class FileOutput(Output):
    """Files that are there whole, or go on. No two runs write the same."""

    hint = "; the same command goes on from there"

    def __init__(self, path: Path, bad_path: Path, run: Mapping[str, Any], *, overwrite: bool) -> None:
        """Begin, or go on where the run before was.

        Args:
            path: The output.
            bad_path: The bad rows; there only if there are some.
            run: What must be the same to go on.
            overwrite: Whether to replace an output, and to begin anew where a run cannot go on.

        Raises:
            WrongUse: the output is there, another run writes it, or what is there is that of other options.
            CannotWrite: the system says so.
        """
        self._path: Final = path
        self._bad_path: Final = bad_path
        self._run: Final = dict(run)
        self._progress_path: Final = path.with_name(f"{path.name}{PROGRESS}")
        with ExitStack() as files:
            with _writing(path):
                with suppress(FileExistsError):  # a file, which is told when the one in it is opened
                    path.parent.mkdir(parents=True, exist_ok=True)
                self._part = files.enter_context(_Part(path))
            with _writing(bad_path):
                self._bad = files.enter_context(_Part(bad_path))
            # Read only now that no other run may write them.
            self.progress = self._progress_before(overwrite=overwrite)
            self._check_names(overwrite=overwrite)
            if self.progress is not None and self.progress.is_complete:  # killed while it gave the files their names
                self._name_files(self.progress)
            else:
                self._cut(overwrite=overwrite)
            self._files = files.pop_all()

    def _check_names(self, *, overwrite: bool) -> None:
        """Pass if the files may get their names."""
        for path in (self._path, self._bad_path):
            if path.exists() and self.progress is None and not overwrite:
                raise WrongUse(f"{path} is there already. Name another output, or replace it with --overwrite.")

    def _progress_before(self, *, overwrite: bool) -> Progress | None:
        """Return what the run before had done, None if this one is to begin anew."""
        try:
            content = self._progress_path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotWrite(f"{self._progress_path}: {error.strerror}.") from error
        try:
            progress = Progress.model_validate_json(content)
        except ValidationError as error:
            if overwrite:
                return None
            raise WrongUse(f"{self._progress_path} is damaged. Begin anew with --overwrite.") from error
        others = [name for name in self._run if progress.run.get(name) != self._run[name]]
        if others and not overwrite:
            raise WrongUse(
                f"{self._path}.part was begun with another {', '.join(others)}. Go on with the same as then, name another output, "
                "or begin anew with --overwrite."
            )
        return None if others else progress

    def _cut(self, *, overwrite: bool) -> None:
        """Cut off what does not count."""
        kept = (0, 0) if self.progress is None else (self.progress.output_bytes, self.progress.bad_bytes)
        with _writing(self._path):
            are_whole = self._part.cut(kept[0]) and self._bad.cut(kept[1])
        if are_whole:
            return
        if not overwrite:
            raise WrongUse(f"{self._path}.part lacks what {self._progress_path} counts. Begin anew with --overwrite.")
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the run before."""
        self.progress = None
        with _writing(self._path):
            self._progress_path.unlink(missing_ok=True)
            self._part.cut(0)
            self._bad.cut(0)

    @property
    def where_bad(self) -> str:
        return f": {self._bad_path}"

    def write(self, lines: bytes, bad: bytes) -> None:
        with _writing(self._path):
            self._part.append(lines)
        with _writing(self._bad_path):
            self._bad.append(bad)

    def commit(self, position: Position, counts: Counts, header: list[str] | None) -> None:
        with _writing(self._path):
            self._part.sync()
            self._bad.sync()
            self.progress = Progress(
                run=self._run,
                position=position,
                counts=counts,
                output_bytes=self._part.size,
                bad_bytes=self._bad.size,
                header=header,
            )
            self._tell(self.progress)

    def _tell(self, progress: Progress) -> None:
        """Replace what is told of the progress, durably and at once."""
        new = self._path.with_name(f"{self._path.name}{NEW_PROGRESS}")
        with new.open("wb") as stream:
            stream.write(progress.model_dump_json().encode())
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(self._progress_path)
        _sync_folder(self._path.parent)

    def finish(self) -> None:
        assert self.progress is not None
        with _writing(self._path):
            self._tell(complete := self.progress.model_copy(update={"is_complete": True}))
            self._name_files(complete)

    def _name_files(self, complete: Progress) -> None:
        """Give the files their names. If it ends in the middle, the next run does the rest."""
        with _writing(self._path):
            self._bad.finish(complete.bad_bytes, is_wanted=complete.bad_bytes > 0)
            self._part.finish(complete.output_bytes, is_wanted=True)
            _sync_folder(self._path.parent)
            self._progress_path.unlink()

    def __exit__(self, *_: object) -> None:
        self._files.close()


class _Part:
    """A file that is being written, and gets its name at the end."""

    def __init__(self, path: Path) -> None:
        """Open it, or what is there of it, which no other run may write.

        Raises:
            WrongUse: another run does.
        """
        self._path: Final = path
        self.path: Final = path.with_name(f"{path.name}{PART}")
        self._stream: Final[BinaryIO] = self.path.open("ab")
        self._is_finished = False
        if not _is_locked(self._stream, self.path):
            self._stream.close()
            raise WrongUse(f"Another run writes {self.path}. Wait for it, or name another output.")
        self.size = self.path.stat().st_size

    def cut(self, size: int) -> bool:
        """Cut off what does not count; return whether all that counts is there."""
        if self.size < size:
            return False
        self._stream.truncate(size)
        self.size = size
        return True

    def append(self, data: bytes) -> None:
        self._stream.write(data)
        self.size += len(data)

    def sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self, size: int, *, is_wanted: bool) -> None:
        """Give it its name, unless it has it, or remove it.

        Args:
            size: Its bytes. One that has less was made when this run began: the whole one has its name.
            is_wanted: Whether there should be one.
        """
        if self.size == size and is_wanted:
            self.path.replace(self._path)
        else:
            self.path.unlink()
        if not is_wanted:
            self._path.unlink(missing_ok=True)
        self._is_finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written does not count
            if not self.size and not self._is_finished:
                self.path.unlink()
        with suppress(OSError):
            self._stream.close()


class StreamOutput(Output):
    """Predictions to stdout, as they come. Bad rows go to a file if one is named."""

    def __init__(self, bad_path: Path | None) -> None:
        """Open the file of the bad rows.

        Raises:
            CannotWrite: the system says so.
        """
        self._bad: BinaryIO | None = None
        if bad_path is not None:
            with _writing(bad_path):
                self._bad = bad_path.open("wb")

    @property
    def where_bad(self) -> str:
        return "; --bad-rows names a file for them" if self._bad is None else f": {self._bad.name}"

    def write(self, lines: bytes, bad: bytes) -> None:
        with _writing("stdout"):
            sys.stdout.buffer.write(lines)
            sys.stdout.buffer.flush()
        if self._bad is not None:
            with _writing(self._bad.name):
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


def _is_locked(stream: BinaryIO, path: Path) -> bool:
    """Lock a file, and return whether no other run has it, or had, and gave it another name since it was opened."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def _writing(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{path}: {error.strerror}.") from error


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
