"""What is wrong with a request: its place and kind, and what was probably meant, without the caller's text."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from app.errors import InvalidJson, ServiceError, ValidationFailed
from app.http.not_json import hint_for
from app.tasks import TASKS
from app.tasks.inputs import KINDS, MAX_INPUTS, objects_in

SHOWN_PROBLEMS: Final = 5
# An unknown key is repeated in an error only if it looks like a name: it may also be a text in the wrong place.
KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")

_ALIKE: Final = 0.75
"""The similarity, at most 1, above which one key is the other misspelt."""
_EXAMINED: Final = 20
"""The most problems that are compared with each other."""
_EXAMINED_BYTES: Final = 65536
"""The largest body whose keys are read again to explain what it lacks."""
_TEXTS: Final = frozenset(
    {"content", "data", "document", "documents", "input", "inputs", "instances", "prompt", "query", "sentence", "sentences",
     "text", "texts"}
)  # fmt: skip
"""What other servers call the texts of a request."""

Place = tuple[int | str, ...]


def explain(error: ValidationError, body: bytes | None = None, form: type[BaseModel] | None = None) -> ServiceError:
    """Turn pydantic's error into one of the catalogue.

    Args:
        error: The error.
        body: The body, if it was read as a whole.
        form: The form that it was read in, if that is not the own one of a task.
    """
    if error.error_count() > MAX_INPUTS + SHOWN_PROBLEMS:  # only unknown keys can be so many
        return ValidationFailed(f"The body has {error.error_count()} problems; /docs shows what a request looks like.")
    problems: Sequence[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    if problems[0]["type"] == "json_invalid":
        detail = str(problems[0]["msg"]).removeprefix("Invalid JSON: ")
        hint = "" if body is None else hint_for(body)
        return InvalidJson(f"The body is not valid JSON: {detail}. {hint}Send JSON in UTF-8.")
    read_in = _form(error.title, form)
    hints = {} if read_in is None or len(problems) > _EXAMINED else _hints(problems, body, read_in)
    shown = "; ".join(
        f"{_name(problem['loc'])}: {_message(problem)}{hints.get(problem['loc'], _remedy(problem))}"
        for problem in problems[:SHOWN_PROBLEMS]
    )
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return ValidationFailed(f"{shown}{more}")


def _form(title: str, form: type[BaseModel] | None) -> type[BaseModel] | None:
    """Return the form that an error is about: a dialect's requests are also read in that of their task."""
    forms = [*([] if form is None else [form]), *(handler.request for handler in TASKS.values())]
    return next((one for one in forms if one.__name__ == title), None)


def _fields(form: type[BaseModel]) -> list[str]:
    """Return the keys of a form, as callers write them."""
    return [field.alias or name for name, field in form.model_fields.items()]


def _inside(form: type[BaseModel], name: str) -> list[str]:
    """Return the keys of the objects that a key of a form, `inputs` or `parameters`, holds."""
    found = form.model_fields.get(name)
    return (
        []
        if found is None
        else list(dict.fromkeys(key for one in objects_in(found.annotation) for key in _fields(one)))
    )


def _hints(problems: Sequence[Any], body: bytes | None, form: type[BaseModel]) -> dict[Place, str]:
    """Return what was probably meant, by the place of a problem."""
    hints: dict[Place, str] = {}
    missing: dict[Place, list[str]] = defaultdict(list)
    unknown: dict[Place, list[str]] = defaultdict(list)
    for problem in problems:
        *above, key = problem["loc"] or ("",)
        if problem["type"] == "missing":
            missing[tuple(above)].append(key)
        elif problem["type"] == "extra_forbidden":
            if meant := _meant(tuple(above), key, form):
                hints[problem["loc"]] = f"; {meant}"
            else:
                unknown[tuple(above)].append(key)
    for above, keys in unknown.items():
        hints |= _replaced(above, missing[above], keys, _inside(form, "inputs"))
    return hints if body is None else hints | _of_body(problems, missing[()], body, form)


def _replaced(
    above: Place, missing: Sequence[str], unknown: Sequence[str], of_an_input: Collection[str]
) -> dict[Place, str]:
    """Return what was meant by unknown keys beside which one is missing."""
    if missing == ["inputs"] and len(unknown) > 1 and set(unknown) <= set(of_an_input):
        keys = ", ".join(f'"{key}": ...' for key in unknown)
        told = {(*above, "inputs"): f'; did you mean {{"inputs": {{{keys}}}}}?'}
        return told | dict.fromkeys([(*above, key) for key in unknown], "")
    key = _only(unknown)
    return {(*above, key): f"; did you mean {missing[0]}?"} if len(missing) == 1 and key is not None else {}


def _of_body(problems: Sequence[Any], missing: Sequence[str], body: bytes, form: type[BaseModel]) -> dict[Place, str]:
    """Return what was meant by a body that is no object, and by the keys that a form ignores, which pydantic does not tell."""
    if problems[0]["loc"] == ():
        if re.match(rb'\s*"\s*[\[{]', body):
            return {(): ", and is a text that holds JSON; encode it once (in requests: json=DICTIONARY, or data=TEXT)"}
        needed = [field.alias or name for name, field in form.model_fields.items() if field.is_required()]
        return {(): f', as in {{"{needed[0]}": ...}}'} if len(needed) == 1 else {}
    if len(missing) == 1 and form.model_config.get("extra") != "forbid":
        key = _only(_ignored(body, form))
        if key is not None and KEY.fullmatch(key):
            return {(missing[0],): f"; rename {key} to that"}
    return {}


def _meant(above: Place, key: str, form: type[BaseModel]) -> str | None:
    """Return what an unknown key was meant to be: misspelt, or in the wrong place."""
    here, inside = _fields(form), _inside(form, "parameters")
    if above == ():
        if alike := _like(key, inside):
            return f'did you mean {{"parameters": {{"{alike}": ...}}}}?'
        alike = _like(key, here)
    elif above == ("parameters",):
        alike = _like(key, inside)
        if not alike and (alike := _like(key, here)):
            return f"did you mean {alike} beside parameters?"
    else:
        alike = _like(key, _inside(form, "inputs"))
    return f"did you mean {alike}?" if alike else None


def _like(key: str, known: Collection[str]) -> str | None:
    plain = {name.replace("_", ""): name for name in known}
    found = get_close_matches(key.lower().replace("_", "").replace("-", "")[:64], plain, n=1, cutoff=_ALIKE)
    return plain[found[0]] if found else None


def _only(keys: Sequence[str]) -> str | None:
    """Return the key that may hold the texts: the one by a name for them, or the only one."""
    named = [key for key in keys if key in _TEXTS] or keys
    return named[0] if len(named) == 1 else None


def _ignored(body: bytes, form: type[BaseModel]) -> list[str]:
    if len(body) > _EXAMINED_BYTES:
        return []
    try:
        document = from_json(body)
    except ValueError:  # it is not the body that was read in this form, but a part of it
        return []
    return sorted(set(document) - set(_fields(form))) if isinstance(document, dict) else []


def _name(place: Place) -> str:
    """Write a location as the caller would: `inputs[3].text`."""
    written = ""
    for part in place:
        if isinstance(part, int):
            written += f"[{part}]"
        elif part not in KINDS:
            name = part if KEY.fullmatch(part) else "(a key)"
            written += f".{name}" if written else name
    return written or "body"


def _message(problem: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        return "is not a parameter of this endpoint"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "model_type" and problem["loc"]:
        return "should be an object; /docs shows what it holds"
    message = str(problem["msg"]).partition(" after validation")[0]
    return message[0].lower() + message[1:]


def _remedy(problem: Any) -> str:  # noqa: ANN401
    return "; remove it" if problem["type"] == "extra_forbidden" else ""
