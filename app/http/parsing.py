"""Reads JSON into its form, unless it is of so many parts that this would hold up every other request."""

from typing import Final, TypeVar

from pydantic import BaseModel

from app.errors import ValidationFailed

F = TypeVar("F", bound=BaseModel)

MAX_PARTS: Final = 65536
"""Most lists, objects and their keys in a body: 16 for each of `app.tasks.inputs.MAX_INPUTS`. The GIL is held while they are
read, for up to 50 ms on a core of a shared virtual machine."""
MAX_ITEMS: Final = 4 * MAX_PARTS
"""Most texts, numbers and others in all lists of a body, as many as a text in windows may have tokens; they take as long."""


def parse(form: type[F], body: bytes) -> F:
    """Return the JSON of a body in its form.

    Raises:
        ValidationError: it is not JSON, or not of this form.
        ValidationFailed: it has too many lists, objects, keys and items.
    """
    # Texts are left out only where they matter: that takes longer than to count.
    if len(body) > MAX_PARTS and _is_too_many(body) and (_has_many_texts(body) or _is_too_many(_without_texts(body))):
        raise ValidationFailed(
            f"The body has more than {MAX_PARTS} lists, objects and keys, or more than {MAX_ITEMS} items. Send several requests."
        )
    parsed: F = form.__pydantic_validator__.validate_json(body)
    return parsed


def _is_too_many(body: bytes) -> bool:
    return body.count(b"[") + body.count(b"{") + body.count(b":") > MAX_PARTS or body.count(b",") > MAX_ITEMS


def _has_many_texts(body: bytes) -> bool:
    """Return whether there are more texts than keys and items may be, without those that the end of a text may hide."""
    return body.count(b'"') - body.count(b'\\"') > 2 * (MAX_PARTS + MAX_ITEMS)


def _without_texts(body: bytes) -> bytes:
    return b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
