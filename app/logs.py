"""Logs as lines: JSON for machines, short text for a person at a terminal.

Set up once, in `launch`. What a record carries in `extra` becomes a field. Texts of requests are never logged.
"""

import json
import logging
import sys
import time
from typing import Any, Final, Literal

# The attributes every record has; anything else came in through `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the record's caller passed in `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


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
        return json.dumps(document, default=str)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        told = "".join(f" {key}={value}" for key, value in fields(record).items())
        line = f"{_time(record)} {record.levelname.lower():<8} {record.getMessage()}{told}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: str, style: Literal["auto", "json", "text"]) -> None:
    """Send every log to stderr, as `style` says; auto is text on a terminal."""
    is_text = sys.stderr.isatty() if style == "auto" else style == "text"
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What uvicorn would say of starting and stopping, `launch` says with more to it.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
