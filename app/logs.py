"""Log formats: JSON lines for machines, short text for a terminal.

Set up once, in `launch`. A record's `extra` becomes fields. Texts of requests are never logged.
"""

import json
import logging
import sys
import time
from functools import lru_cache
from typing import Any, Final, Literal

# The attributes of every record; all others come from `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


_JSON: Final = json.JSONEncoder(default=str)  # `json.dumps` would make one for every line


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the record's caller passed in `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return _JSON.encode(document)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        shown = "".join(f" {key}={value}" for key, value in fields(record).items())
        line = f"{_time(record)} {record.levelname.lower():<8} {record.getMessage()}{shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str, style: Literal["auto", "json", "text"]) -> None:
    """Write every log to stderr in the given style; auto is text on a terminal, else JSON."""
    is_text = sys.stderr.isatty() if style == "auto" else style == "text"
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A line for every request costs as much as half of the rest of it. What the formats do not show is not looked up: see
    # "Optimization" in the documentation of `logging`.
    logging._srcfile = None  # type: ignore[attr-defined]  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # `launch` logs start and stop with more detail than uvicorn.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
