"""The output of a run that may end at any moment, and go on later without a lost or doubled row.

Rows are appended to `OUTPUT.part` and, if they are bad, to that of the bad rows. From time to time both are made durable, and then
`OUTPUT.progress` says how much of them counts, and how far the input had been read. A run that goes on cuts off what does not
count. At the end the files get their names, the output last.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from app.predict.faults import CannotWrite, WrongUse
from app.predict.output import Counts, Output, Progress, refuse_existing, writing
from app.predict.part import PART, Part
from app.predict.source import Position

PROGRESS: Final = ".progress"
NEW_PROGRESS: Final = ".new"
"""What the names of files end with until a run is done."""


def files_of(path: Path, bad_path: Path) -> list[Path]:
    """Return all files that a run writes."""
    ends = [(path, end) for end in ("", PART, PROGRESS, NEW_PROGRESS)] + [(bad_path, end) for end in ("", PART)]
    return [one.with_name(f"{one.name}{end}") for one, end in ends]


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
        self._new_progress_path: Final = path.with_name(f"{path.name}{NEW_PROGRESS}")
        with ExitStack() as files:
            with writing(path):
                with suppress(FileExistsError):  # a file, which is told when the one in it is opened
                    path.parent.mkdir(parents=True, exist_ok=True)
                self._part = files.enter_context(Part(path))
            with writing(bad_path):
                self._bad = files.enter_context(Part(bad_path))
            # Read only now that no other run may write them.
            self.progress = self._progress_before(overwrite=overwrite)
            for one in (path, bad_path):
                refuse_existing(one, overwrite=overwrite or self.progress is not None)
            if self.progress is not None and self.progress.is_complete:  # killed while it gave the files their names
                self._name_files(self.progress)
            else:
                self._cut(overwrite=overwrite)
            self._files = files.pop_all()

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
        with writing(self._path):
            are_whole = self._part.cut(kept[0]) and self._bad.cut(kept[1])
        if are_whole:
            return
        if not overwrite:
            raise WrongUse(f"{self._path}.part lacks what {self._progress_path} counts. Begin anew with --overwrite.")
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the run before."""
        self.progress = None
        with writing(self._path):
            self._progress_path.unlink(missing_ok=True)
            self._new_progress_path.unlink(missing_ok=True)
            self._part.cut(0)
            self._bad.cut(0)

    @property
    def where_bad(self) -> str:
        return f": {self._bad_path}"

    def write(self, lines: bytes, bad: bytes) -> None:
        with writing(self._path):
            self._part.append(lines)
        with writing(self._bad_path):
            self._bad.append(bad)

    def commit(self, position: Position, counts: Counts, header: list[str] | None) -> None:
        with writing(self._path):
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
        with self._new_progress_path.open("wb") as stream:
            stream.write(progress.model_dump_json().encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._new_progress_path.replace(self._progress_path)
        _sync_folder(self._path.parent)

    def finish(self) -> None:
        assert self.progress is not None
        with writing(self._path):
            self._tell(complete := self.progress.model_copy(update={"is_complete": True}))
            self._name_files(complete)

    def _name_files(self, complete: Progress) -> None:
        """Give the files their names. If it ends in the middle, the next run does the rest."""
        with writing(self._path):
            self._bad.finish(complete.bad_bytes, is_wanted=complete.bad_bytes > 0)
            self._part.finish(complete.output_bytes, is_wanted=True)
            _sync_folder(self._path.parent)
            self._progress_path.unlink()

    def __exit__(self, *_: object) -> None:
        self._files.close()


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
