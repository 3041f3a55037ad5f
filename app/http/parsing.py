"""Reads JSON into its form, unless it is of so many parts that this would hold up every other request."""

import re
from typing import Final, TypeVar

from pydantic import BaseModel

from app.errors import ValidationFailed

F = TypeVar("F", bound=BaseModel)

MAX_GROUPS: Final = 65536
"""Most lists and objects of a body: 16 for each of `app.tasks.inputs.MAX_INPUTS`. 2 million of them, in 4 MB, took 0.5 to 7 s
of the event loop on a core of a shared virtual machine; this many take 0.1 s at most."""
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def parse(form: type[F], body: bytes) -> F:
    """Return the JSON of a body in its form.

    Raises:
        ValidationError: it is not JSON, or not of this form.
        ValidationFailed: it has too many lists and objects.
    """
    # Texts are left out only where they matter: that takes longer than to count.
    if len(body) > MAX_GROUPS and _groups(body) > MAX_GROUPS and _groups(_TEXT.sub(b"", body)) > MAX_GROUPS:
        raise ValidationFailed(f"The body has more than {MAX_GROUPS} lists and objects. Send several requests.")
    parsed: F = form.__pydantic_validator__.validate_json(body)
    return parsed


def _groups(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")
