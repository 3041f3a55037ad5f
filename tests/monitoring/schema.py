"""Grafana's dashboard schema, as it is published in the types of grafana-foundation-sdk, held against a document.

The SDK's classes are generated from the schema, but its `from_json` passes on whatever it finds. Two things together are a
validation: nothing is lost on the way into the classes and back, so there is no key that the schema does not know; and
every value is of the type that its class declares.
"""

import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as models

SDK: Final = "grafana_foundation_sdk"


def problems(document: dict[str, Any]) -> list[str]:
    """Return what is wrong with a dashboard, as far as the schema can tell."""
    register_default_plugins()
    parsed = models.Dashboard.from_json(document)
    again = json.loads(json.dumps(parsed, cls=JSONEncoder))
    return [*_differences(document, again, "dashboard"), *_violations(parsed, models.Dashboard, "dashboard")]


def _differences(before: Any, after: Any, where: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            if key not in before or key not in after:
                yield f"{where}.{key} is {'unknown' if key in before else 'missing'}"
            else:
                yield from _differences(before[key], after[key], f"{where}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{where}[{index}]")
    elif before != after:
        yield f"{where} is {before!r}, which reads as {after!r}"


def _violations(value: Any, hint: Any, where: str) -> Iterator[str]:
    """Yield where `value` is not of the type that `hint` declares."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        yield from _of_a_union(value, arguments, where)
    elif origin is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _violations(item, arguments[0], f"{where}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from _violations(item, arguments[1], f"{where}[{key!r}]")
    elif not _fits(value, hint):
        yield f"{where} is {value!r}, not {hint}"
    elif isinstance(value, dict) and hasattr(hint, "from_json"):  # the SDK does not go into lists of these
        parsed = hint.from_json(value)
        yield from _differences(value, json.loads(json.dumps(parsed, cls=JSONEncoder)), where)
        yield from _violations(parsed, hint, where)
    elif type(value).__module__.startswith(SDK) and not isinstance(value, enum.Enum):
        for name, inner in typing.get_type_hints(type(value)).items():
            yield from _violations(getattr(value, name), inner, f"{where}.{name}")


def _of_a_union(value: Any, members: tuple[Any, ...], where: str) -> Iterator[str]:
    """Yield nothing if one member fits, else what is wrong with the closest: never with None, which says nothing."""
    if value is None and type(None) in members:
        return
    found = [list(_violations(value, member, where)) for member in members if member is not type(None)]
    yield from min(found, key=lambda each: (len(each), str(each).count(where + " is")))


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if not isinstance(hint, type):
        return typing.get_origin(hint) is None
    if issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    if hint in (int, float):
        return not isinstance(value, bool) and isinstance(value, (int, hint))
    return isinstance(value, hint) or (isinstance(value, dict) and hasattr(hint, "from_json"))
