"""Remember how a model was found to run best, in a folder of small files, so that the next start need not measure it again.

The folder may be deleted at any time, shared by servers, and written to by others: a file counts only if it belongs to this user, is
whole, and names the bundle, the processor and the releases itself. Whatever else is wrong costs a measurement, never a start.
"""

import hashlib
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import msgspec

from app.engine.messages import Measured, Speed

log = logging.getLogger(__name__)

FORM: Final = 2
"""Of the files. Raise it when what they hold changes its meaning."""
MAX_FILE_BYTES: Final = 8192
"""A file has about 1 KB: some ten sizes of a batch."""
MAX_FILES: Final = 64
"""Files above this number are removed, the oldest first."""
KEPT_FOR_S: Final = 7 * 24 * 3600.0
"""What is older is measured again: a machine that was busy at the time may have said that one thread is best, and no later check would
see that, as the model is opened with that number only."""
_OURS: Final = re.compile(r"[0-9a-f]{64}\.json|\w+\.part")

Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides how fast a model is: if any of it is another, what was measured does not count.

    `bundle` is its identity, `threads` and `batch_tokens` the settings (0: what is measured), `processor` what
    `app.bundle.cpus.processor` says, `cores` how many of its cores may be kept busy, `runtime` and `release` the versions of what runs it
    and of this server.
    """

    bundle: str
    variant: str
    threads: int
    batch_tokens: int
    processor: str
    cores: float
    runtime: str
    release: str
    form: int = FORM


class _Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    conditions: Conditions
    provider: str
    threads: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=1024)]], msgspec.Meta(min_length=1, max_length=16)]
    budget_tokens: Tokens
    seconds_per_token: Seconds
    taken_bytes: Annotated[int, msgspec.Meta(ge=0)]
    seconds_by_tokens: Annotated[list[tuple[Tokens, Seconds]], msgspec.Meta(min_length=1, max_length=64)]


class TuningCache:
    """What is remembered of one model under some conditions. The methods wait for the disk."""

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        """Look at nothing yet.

        Args:
            folder: Of all models; it need not exist.
            conditions: Of this one.
        """
        self._conditions: Final = conditions
        name = hashlib.sha256(msgspec.json.encode(conditions)).hexdigest()
        self.path: Final = folder / f"{name}.json"

    def recall(self) -> Measured | None:
        """Return what was measured, or None if that is not known here."""
        try:
            content = _read(self.path)
            entry = msgspec.json.decode(content, type=_Entry)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.info("%s is not used: %s", self.path, error.strerror or error)
            return None
        except (ValueError, RecursionError):  # not JSON, or not of this form
            log.info("%s is not used: it is damaged", self.path)
            return None
        sizes = [tokens for tokens, _ in entry.seconds_by_tokens]
        if entry.conditions != self._conditions or not _is_rising(sizes) or not _is_rising(entry.threads):
            log.info("%s is not used: it is damaged", self.path)
            return None
        speed = Speed(entry.budget_tokens, entry.seconds_per_token, entry.seconds_by_tokens)
        return Measured(
            identity=self._conditions.bundle,
            variant=self._conditions.variant,
            provider=entry.provider,
            threads=entry.threads,
            speed=speed,
            taken_bytes=entry.taken_bytes,
        )

    def remember(self, measured: Measured) -> None:
        """Keep what was measured on a CPU, whole or not at all."""
        entry = _Entry(
            conditions=self._conditions,
            provider=measured.provider,
            threads=[*measured.threads],
            budget_tokens=measured.speed.budget_tokens,
            seconds_per_token=measured.speed.seconds_per_token,
            taken_bytes=measured.taken_bytes,
            seconds_by_tokens=[*measured.speed.seconds_by_tokens],
        )
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _new_file(self.path) as descriptor, os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(entry))
            _keep_newest(self.path.parent)
        except OSError as error:
            log.info(
                "the next start measures again, as nothing can be kept in %s: %s. BERT_TUNING_CACHE_DIR names another "
                "folder, BERT_TUNING_CACHE=false keeps nothing",
                *(self.path.parent, error.strerror or error),
            )

    def forget(self) -> None:
        """Have the next start measure again."""
        with suppress(OSError):
            self.path.unlink()


def _is_rising(numbers: Sequence[int]) -> bool:
    return all(one < next_one for one, next_one in pairwise(numbers))


def _read(path: Path) -> bytes:
    """Return what a file holds.

    Raises:
        OSError: it cannot be read, or is a link, a folder, a pipe, too large, too old, or may be written by other users than this one.
    """
    # A pipe without a writer is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise OSError("it is no file of this server")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError("other users may write to it")
        if not 0 <= time.time() - status.st_mtime < KEPT_FOR_S:
            raise OSError("it is too old")
        return file.read(MAX_FILE_BYTES)


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Open a file, to be closed by the caller, that takes the place of another one if nothing fails.

    Servers that start at once each write one of their own.
    """
    descriptor, part = tempfile.mkstemp(prefix="", suffix=".part", dir=path.parent)
    try:
        yield descriptor
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink()
        raise


def _keep_newest(folder: Path) -> None:
    """Remove the oldest files above `MAX_FILES`, also what is left of servers that were killed."""
    by_age: list[tuple[float, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name):
                with suppress(OSError):  # another server was faster
                    by_age.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    for _, path in sorted(by_age)[:-MAX_FILES]:
        with suppress(OSError):
            Path(path).unlink()
