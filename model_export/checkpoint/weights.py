"""Read tensors from a checkpoint's weight files: safetensors, or what torch.save wrote."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.bundle.sequences import FloatArray
from model_export.checkpoint.json_files import read_json
from model_export.checkpoint.no_checkpoint import not_a_checkpoint
from model_export.checkpoint.pickled import PickleError, read_pickled
from model_export.checkpoint.readable import check_readable
from model_export.errors import ExportError, few, one_line, shown

SAFETENSORS: Final = "model.safetensors"
PICKLED: Final = "pytorch_model.bin"

_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""Of a shard: never a path that leaves the folder."""
_CHUNK_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that has not been read yet."""

    shape: tuple[int, ...]
    read: Callable[[], FloatArray]


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a checkpoint by name, and the files they are in."""

    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]


def sha256_of(files: Iterable[Path]) -> str:
    """Return the hash over the content of weight files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def open_weights(folder: Path) -> Weights:
    """List the tensors of the checkpoint in `folder`.

    Raises:
        ExportError: there are no weights, or they cannot be read.
    """
    for name, tensors_of in ((SAFETENSORS, _safetensors), (PICKLED, _pickled)):
        files = _files(folder, name)
        if files:
            check_readable(*files)
            tensors = {key: tensor for file in files for key, tensor in tensors_of(file).items()}
            return Weights(files, tensors)
    raise not_a_checkpoint(folder, f"has no weights: neither {SAFETENSORS} nor {PICKLED}, in one file or in shards")


def _files(folder: Path, name: str) -> tuple[Path, ...]:
    if os.path.lexists(folder / name):
        return (folder / name,)
    index = folder / f"{name}.index.json"
    if not os.path.lexists(index):
        return ()
    weight_map = read_json(index).get("weight_map")
    shards = sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, Mapping) else []
    if not shards:
        raise ExportError(f"{index} is not an index of weight files. Download the checkpoint again.")
    elsewhere = [shard for shard in shards if not _FILE_NAME.fullmatch(shard)]
    if elsewhere:
        raise ExportError(
            f"{index} names {few([shown(shard) for shard in elsewhere])}, which is no file beside it. Download the checkpoint again."
        )
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ExportError(f"{folder} lacks {', '.join(missing)}, which {index.name} names. Download the rest of it.")
    return tuple(folder / shard for shard in shards)


def _safetensors(path: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  # not needed to verify a bundle

    try:
        stored: Any = safe_open(path, framework="numpy")
    except (SafetensorError, OSError, MemoryError) as error:
        raise ExportError(
            f"{path} is not a complete safetensors file ({one_line(error)}). Download it again."
        ) from error

    def tensor(name: str) -> StoredTensor:
        shape, dtype = stored.get_slice(name).get_shape(), str(stored.get_slice(name).get_dtype())

        def read() -> FloatArray:
            if dtype not in _FLOATS:
                raise ExportError(
                    f"{name} in {path} holds numbers of the type {dtype}; {', '.join(_FLOATS)} can be exported. "
                    "Export the checkpoint as it was before it was quantized."
                )
            return np.asarray(stored.get_tensor(name).astype(np.float32, copy=False))

        return StoredTensor(tuple(shape), read)

    return {name: tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping


def _pickled(path: Path) -> dict[str, StoredTensor]:
    try:
        stored = read_pickled(path)
    except PickleError as error:
        raise ExportError(
            f"{path} is not a state dict that can be read safely: {error}. "
            "Convert the checkpoint where you trust it: load it and save it again with save_pretrained()."
        ) from error
    return {name: StoredTensor(tensor.shape, tensor.read) for name, tensor in stored.items()}
