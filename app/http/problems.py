"""What is wrong with a request: its place and kind, without the caller's text."""

import re
from typing import Any, Final

from pydantic import ValidationError

from app.errors import InvalidJson, ServiceError, ValidationFailed
from app.tasks.inputs import KINDS, MAX_INPUTS

SHOWN_PROBLEMS: Final = 5
# An unknown key is repeated in an error only if it looks like a name: it may also be a text in the wrong place.
KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


def explain(error: ValidationError) -> ServiceError:
    """Turn pydantic's error for a body into one of the catalogue."""
    if error.error_count() > MAX_INPUTS + SHOWN_PROBLEMS:  # only unknown keys can be so many
        return ValidationFailed(f"The body has {error.error_count()} problems; /docs shows what a request looks like.")
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        detail = str(problems[0]["msg"]).removeprefix("Invalid JSON: ")
        return InvalidJson(f"The body is not valid JSON: {detail}. Send JSON in uncompressed UTF-8.")
    shown = "; ".join(f"{_place(problem['loc'])}: {_message(problem)}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return ValidationFailed(f"{shown}{more}")


def _place(loc: tuple[int | str, ...]) -> str:
    """Write a location as the caller would: `inputs[3].text`."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in KINDS:
            name = part if KEY.fullmatch(part) else "(a key)"
            place += f".{name}" if place else name
    return place or "body"


def _message(problem: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        return "is not a parameter of this endpoint; remove it"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "model_type" and problem["loc"]:
        return "should be an object; /docs shows what it holds"
    message = str(problem["msg"]).partition(" after validation")[0]
    return message[0].lower() + message[1:]
