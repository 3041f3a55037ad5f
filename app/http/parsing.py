"""Reads JSON into its form, unless it is of so many parts that this would hold up every other request."""

import re
from typing import Final, TypeVar

from pydantic import BaseModel

from app.errors import ValidationFailed

F = TypeVar("F", bound=BaseModel)

MAX_PARTS: Final = 131072
"""Most lists, objects and their keys in a body: 32 for each of `app.tasks.inputs.MAX_INPUTS`. 4 MB of lists took 0.5 to 7 s of
the event loop on a core of a shared virtual machine, 4 MB of keys up to 0.7 s; this many take 0.2 s at most."""
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def parse(form: type[F], body: bytes) -> F:
    """Return the JSON of a body in its form.

    Raises:
        ValidationError: it is not JSON, or not of this form.
        ValidationFailed: it has too many lists, objects and keys.
    """
    # Texts are left out only where they matter: that takes longer than to count.
    if len(body) > MAX_PARTS and _parts(body) > MAX_PARTS and _parts(_TEXT.sub(b"", body)) > MAX_PARTS:
        raise ValidationFailed(f"The body has more than {MAX_PARTS} lists, objects and keys. Send several requests.")
    parsed: F = form.__pydantic_validator__.validate_json(body)
    return parsed


def _parts(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{") + body.count(b":")
