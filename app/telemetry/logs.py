"""Log formats: JSON lines for machines, short text for a terminal.

Set up once in each process, when it starts. A record's `extra` becomes fields. Texts of requests are never logged.
"""

import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, Final, Literal

from app.telemetry.record import RequestRecord

Style = Literal["auto", "json", "text"]
# The attributes of every record; all others come from `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


_JSON: Final = json.JSONEncoder(default=str)  # `json.dumps` would make one for every line


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the record's caller passed in `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


@cache
def own_process() -> dict[str, object]:
    """Return what tells this process from the others of a service; nothing in one that no other has started."""
    if multiprocessing.parent_process() is None:
        return {}
    return {"process": multiprocessing.current_process().name.replace(" ", "-"), "pid": os.getpid()}


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _time(created: float) -> str:
    seconds = int(created)
    return f"{_second(seconds)}.{int((created - seconds) * 1000):03d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **own_process(),
            **fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return _JSON.encode(document)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = _text_line(record.created, record.levelname.lower(), record.getMessage(), own_process() | fields(record))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _text_line(created: float, level: str, message: str, shown: Mapping[str, object]) -> str:
    return f"{_time(created)} {level:<8} {message}{''.join(f' {key}={_quoted(value)}' for key, value in shown.items())}"


def _quoted(value: object) -> str:
    """Return a value as it is, or in quotes if it would else look like several: the name of a certificate may be any text."""
    text = str(value)
    return _JSON.encode(text) if " " in text or '"' in text else text


class AccessLog:
    """Writes a line for every request, in the format of all other lines. Use it on the event loop.

    It bypasses `logging`, which would take half as long as the rest of a short request.
    """

    def __init__(self, style: Style) -> None:
        self._is_text: Final = _is_text(style)

    def write(self, request: RequestRecord) -> None:
        """Write a request's line. As with `logging`, a full disk or a closed terminal is no error of the request."""
        now = time.time()
        shown: dict[str, object] = {}
        if not self._is_text:
            shown = {"time": _time(now), "level": "info", "logger": "app.access", "message": "request"}
        shown |= own_process()
        shown["request_id"] = request.request_id
        shown["client"] = request.client
        if request.certificate is not None:
            shown["client_certificate"] = request.certificate
        if request.caller is not None:
            shown["caller"] = request.caller
        shown["api"] = request.api
        shown["task"] = request.task
        shown["model"] = request.model or request.changes
        if request.bundle is not None:
            shown["bundle"] = request.bundle
        shown["status"] = request.status
        if request.error_type is not None:
            shown["error_type"] = request.error_type
        shown["duration_ms"] = round(request.duration_s * 1e3, 3)
        shown["sequences"] = request.sequences
        shown["tokens"] = request.tokens
        if request.trace_id is not None:
            shown["trace_id"] = request.trace_id
        line = _text_line(now, "info", "request", shown) if self._is_text else _JSON.encode(shown)
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")


def _is_text(style: Style) -> bool:
    return sys.stderr.isatty() if style == "auto" else style == "text"


def configure(level: str, style: Style) -> None:
    """Write every log to stderr in the given style; auto is text on a terminal, else JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter() if _is_text(style) else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # `app.processes` logs start and stop with more detail than uvicorn.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # Their lines hold headers and addresses, which may be secret, and what callers send: `otel.check` and `collector` say what is wrong.
    for name in (
        "opentelemetry.util.re",
        "opentelemetry.sdk.resources",
        "opentelemetry.trace",
        "opentelemetry.attributes",
        "urllib3",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("trace_exporter", "metric_exporter"):
        logging.getLogger(f"opentelemetry.exporter.otlp.proto.http.{name}").setLevel(logging.CRITICAL + 1)
