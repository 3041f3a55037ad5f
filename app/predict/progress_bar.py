"""How far a run is: a bar on a terminal, else a line in the log now and then."""

import logging
import sys
import time
from typing import Any, Final

from tqdm import tqdm

log = logging.getLogger(__name__)

TELL_EVERY_S: Final = 30.0
"""How often the log has a line, where there is no terminal."""
_KNOWN: Final = "{percentage:3.0f}% |{bar}| {desc}, {remaining} left"
_UNKNOWN: Final = "{desc}, {elapsed}"


class ProgressBar:
    """Rows, rows a second, and the time that is left, by the bytes of the input."""

    def __init__(self, size: int | None, done_bytes: int, rows: int) -> None:
        """Begin to count.

        Args:
            size: Bytes of the input; None if that is not known.
            done_bytes: Those that a run before has done.
            rows: As many rows were these.
        """
        self._size = size = size or None  # 0 is what /proc says of its files
        self._begun = (time.monotonic(), done_bytes, rows)
        self._told_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=size,
            initial=done_bytes,
            bar_format=_UNKNOWN if size is None else _KNOWN,
            disable=not self._is_terminal,
            dynamic_ncols=True,
            desc=f"{rows:,} rows",
        )

    def show(self, done_bytes: int, rows: int) -> None:
        """Show that so many bytes and rows are done."""
        now = time.monotonic()
        started_at, bytes_before, rows_before = self._begun
        elapsed = max(now - started_at, 1e-9)
        rate = (rows - rows_before) / elapsed
        text = f"{rows:,} rows, {rate:,.0f} rows/s"
        if self._is_terminal:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(done_bytes - self._bar.n)
        elif now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            if self._size is not None and done_bytes > bytes_before:
                left_s = (self._size - done_bytes) * elapsed / (done_bytes - bytes_before)
                text += f", {done_bytes / self._size:.0%}, {tqdm.format_interval(left_s)} left"
            log.info("%s", text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
