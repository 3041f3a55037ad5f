"""Tensors as the protocol writes them: in JSON, or as bytes that follow it (the binary tensor data extension)."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from app.errors import ValidationFailed
from app.http.api import Raw
from app.tasks.inputs import MAX_INPUTS

MAX_TENSORS: Final = 16
"""Most tensors of a request, so that a body of a million damaged ones is refused at the first too many."""
MAX_RANK: Final = 8
HEADER_LENGTH: Final = "inference-header-content-length"
"""The header that says how long the JSON is, if bytes follow it."""
DTYPES: Final[Mapping[str, str]] = {"BYTES": "O", "FP32": "<f4", "INT64": "<i8", "BOOL": "?"}
"""NumPy's types of the protocol's datatypes. Texts are BYTES."""


class Lenient(BaseModel):
    """Wrong types are errors; unknown keys are ignored, as other servers do."""

    model_config = ConfigDict(strict=True, frozen=True)  # what is frozen is no default to be copied


NULL_IS_NONE: Final = BeforeValidator(lambda value: {} if value is None else value)
"""Takes null for an object without keys, as KServe does."""


class InputParameters(Lenient):
    """What is said of an input beside its shape."""

    binary_data_size: int | None = Field(None, ge=0, description="Its bytes follow the JSON; this many.")
    shared_memory_region: Any = None


class InputTensor(Lenient):
    """One input: texts."""

    name: str
    datatype: str
    shape: list[int] = Field(max_length=MAX_RANK, description="[n] or [n, 1].")
    parameters: Annotated[InputParameters, NULL_IS_NONE] = InputParameters()
    data: list[Any] | None = Field(None, description="The texts, flat or nested as the shape says.")


class OutputParameters(Lenient):
    """How an output is to be written."""

    binary_data: bool | None = Field(None, description="As bytes after the JSON. Default: `binary_data_output`.")
    classification: int = 0
    shared_memory_region: Any = None


class WantedOutput(Lenient):
    """An output that the answer is to have."""

    name: str
    parameters: Annotated[OutputParameters, NULL_IS_NONE] = OutputParameters()


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output of an answer."""

    name: str
    datatype: str
    values: npt.NDArray[Any]
    """Of the type that `DTYPES` names."""
    is_binary: bool


def read_texts(tensors: Sequence[InputTensor], rest: bytes) -> dict[str, list[str]]:
    """Return the texts of each input by its name. `rest` is what follows the JSON: the bytes of binary inputs, in order.

    Raises:
        ValidationFailed: a tensor has other elements than it says, or something that is no text.
    """
    found: dict[str, list[str]] = {}
    start = 0
    for i, tensor in enumerate(tensors):
        place = f"inputs[{i}]"
        count = _count(tensor, place)
        size = tensor.parameters.binary_data_size
        if tensor.name in found:
            raise ValidationFailed(f"{place}.name: another input has this name; send each input once.")
        if size is None:
            found[tensor.name] = _from_json(tensor.data, count, place)
        elif tensor.data is not None:
            raise ValidationFailed(f"{place}: has data as JSON and as bytes; send one of them.")
        else:
            found[tensor.name] = _from_bytes(rest[start : start + size], count, place)
            start += size
    if start != len(rest):
        raise ValidationFailed(
            f"The body has {len(rest)} bytes after its JSON, but the inputs' binary_data_size are {start} together. "
            "Make them equal."
        )
    return found


def _count(tensor: InputTensor, place: str) -> int:
    """Return how many texts a tensor says that it has."""
    if tensor.parameters.shared_memory_region is not None:
        raise ValidationFailed(f"{place}: this server has no shared memory; send the data in the body.")
    if tensor.datatype != "BYTES":
        raise ValidationFailed(f"{place}.datatype: should be BYTES; every input is texts in UTF-8.")
    if len(tensor.shape) not in (1, 2) or tensor.shape[0] < 0 or tensor.shape[1:] not in ([], [1]):
        raise ValidationFailed(f"{place}.shape: should be [n] or [n, 1], where n is the number of texts.")
    if tensor.shape[0] > MAX_INPUTS:
        raise ValidationFailed(f"{place}.shape: at most {MAX_INPUTS} texts are allowed. Send several requests.")
    return tensor.shape[0]


def _from_json(data: list[Any] | None, count: int, place: str) -> list[str]:
    if data is None:
        raise ValidationFailed(f"{place}.data: is missing; send it, or bytes and their parameters.binary_data_size.")
    if len(data) != count:
        raise ValidationFailed(f"{place}.data: has {len(data)} elements, but the shape says {count}.")
    texts = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValidationFailed(f"{place}.data[{i}]: should be a text.")
    return texts


def _from_bytes(raw: bytes, count: int, place: str) -> list[str]:
    """Return texts of which each is its length, 4 bytes with the least significant first, and its UTF-8."""
    texts: list[str] = []
    start = 0
    try:
        for _ in range(count):
            stop = start + 4 + struct.unpack_from("<I", raw, start)[0]
            texts.append(raw[start + 4 : stop].decode())
            start = stop
    except UnicodeDecodeError:
        raise ValidationFailed(f"{place}: its element {len(texts)} is not UTF-8.") from None
    except struct.error:
        start = -1
    if start != len(raw):
        raise ValidationFailed(
            f"{place}: its bytes are not the {count} texts that the shape says. Each text is its length in 4 bytes, "
            "little-endian, and its UTF-8."
        )
    return texts


def write_tensors(head: Mapping[str, object], tensors: Iterable[OutputTensor]) -> Raw:
    """Return an answer: the head, the outputs in JSON, and the bytes of those that are binary."""
    described, binary = [], []
    for tensor in tensors:
        document: dict[str, object] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.values.shape),
        }
        if tensor.is_binary:
            binary.append(_to_bytes(tensor.values))
            document["parameters"] = {"binary_data_size": len(binary[-1])}
            described.append(to_json(document))
        else:
            described.append(b'%s,"data":%s}' % (to_json(document)[:-1], _to_json(tensor.values)))
    body = b'%s,"outputs":[%s]}' % (to_json(head)[:-1], b",".join(described))
    if not binary:
        return Raw(body, b"application/json")
    headers = [(HEADER_LENGTH.encode(), str(len(body)).encode())]
    return Raw(b"".join([body, *binary]), b"application/octet-stream", headers)


def _to_bytes(values: npt.NDArray[Any]) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    texts = [text.encode() for text in values.flat]
    return b"".join(chain.from_iterable((struct.pack("<I", len(text)), text) for text in texts))


def _to_json(values: npt.NDArray[Any]) -> bytes:
    """Return a flat list. Rows are written one by one, because `to_json` holds the GIL until it is done."""
    if values.ndim < 2:
        return to_json(values.tolist())
    return b"[%s]" % b",".join([to_json(row.tolist())[1:-1] for row in values if row.size])


def array(datatype: str, values: object) -> npt.NDArray[Any]:
    """Return values, nested lists or an array, as an array of a datatype."""
    return np.asarray(values, DTYPES[datatype])
