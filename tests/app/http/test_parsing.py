"""A body of too many parts is refused before it is read; what stands in texts is no part."""

from typing import Any

import pytest
from pydantic import BaseModel

from app.errors import ValidationFailed
from app.http.parsing import MAX_ITEMS, MAX_PARTS, parse


class Form(BaseModel):
    inputs: Any = None


@pytest.mark.parametrize(
    "inputs",
    [
        b"[%s[]]" % (b"[]," * MAX_PARTS),
        b"[" * MAX_PARTS + b"]" * MAX_PARTS,
        b"[%s{}]" % (b'{"a":1},' * MAX_PARTS),
        b'["\\\\\\"",%s""]' % (b'"",' * MAX_ITEMS),
        b"[%s1]" % (b"1," * (MAX_ITEMS + 1)),
        b"[%s1]" % (b'"",' * 4 * MAX_ITEMS),
    ],
    ids=["lists", "nested lists", "objects", "texts", "numbers", "very many texts"],
)
def test_a_body_of_too_many_parts_is_refused(inputs: bytes) -> None:
    with pytest.raises(ValidationFailed, match=f"more than {MAX_PARTS} lists, objects and keys"):
        parse(Form, b'{"inputs":%s}' % inputs)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 2 * MAX_PARTS,
        b'\\"[{' * MAX_PARTS,
        b"{\\\\" * 2 * MAX_PARTS,
        b"," * 2 * MAX_ITEMS,
        b'\\",' * 4 * MAX_ITEMS,
    ],
)
def test_brackets_in_a_text_are_text(text: bytes) -> None:
    assert len(parse(Form, b'{"inputs":"%s"}' % text).inputs) >= 2 * MAX_PARTS


def test_a_body_of_as_many_lists_as_are_allowed_is_read() -> None:
    lists = b"[]," * (MAX_PARTS - 4) + b"[]"
    assert len(parse(Form, b'{"inputs":[%s]}' % lists).inputs) == MAX_PARTS - 3
    texts = b'"",' * (MAX_ITEMS - 1) + b'""'
    assert len(parse(Form, b'{"inputs":[%s]}' % texts).inputs) == MAX_ITEMS
