"""Files that torch.save wrote are read without torch; whatever else a pickle does is refused."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.checkpoint.pickled import PickleError, read_pickled
from tests.model_export.support import ROOT

PICKLES = ROOT / "tests" / "fixtures" / "pickles"
"""One state dict in both formats of torch 2.13: views of numbers from 0 to 23, divided by 8."""
BASE = np.arange(24, dtype=np.float32).reshape(4, 6) / 8


@pytest.mark.parametrize("name", ["zip.bin", "older.bin"])
def test_tensors_are_those_that_were_saved(name: str) -> None:
    tensors = read_pickled(PICKLES / name)
    expected: dict[str, Any] = {
        "plain": BASE,
        "transposed": BASE.T,
        "part": BASE[1:3, 2:5],
        "half": BASE,
        "bfloat": BASE,
        "double": BASE,
        "parameter": BASE[0],
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3)),
    }
    assert tensors.keys() == {*expected, "ids"}
    for key, value in expected.items():
        assert tensors[key].shape == np.shape(value)
        read = tensors[key].read()
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, value)
    with pytest.raises(PickleError, match="numbers of the type Long"):
        tensors["ids"].read()


@pytest.mark.parametrize("name", ["zip.bin", "older.bin"])
def test_every_cut_is_found(name: str, tmp_path: Path) -> None:
    content = (PICKLES / name).read_bytes()
    path = tmp_path / name
    for kept in range(0, len(content), 41):
        path.write_bytes(content[:kept])
        with pytest.raises(PickleError):
            [tensor.read() for key, tensor in read_pickled(path).items() if key != "ids"]


def archived(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", program)
    return path


# A tuple of two of the tuple before, 64 times: 300 bytes, whose hash or text would take longer than the universe is old.
_NESTED = b"(" + b"t" + b"".join(b"q\x00h\x00\x86" for _ in range(64))
_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x04tQ"
)


@pytest.mark.parametrize(
    ("program", "refusal"),
    [
        (pickle.dumps({"a": print}, 2), "names '__builtin__.print', which no state dict needs"),
        (pickle.dumps({"a": print}, 4), "names 'builtins.print', which no state dict needs"),
        (b"cos\nsystem\n(X\x04\x00\x00\x00true\x85R.", r"names 'os\.system'"),
        (b"ccollections\nOrderedDict\n(tR}X\x01\x00\x00\x00ak\x01s\x81.", "is damaged|no state dict needs"),
        (b"(ios\nsystem\n.", "has the instruction INST"),
        (b"}" + _NESTED + b"K\x01s.", "something else than a text for a name"),
        (_NESTED + _NESTED + b"\x93.", "something else than a text for a name"),
        (b"]K\x01a.", "holds no dictionary"),
        (b"K\x01K\x01a.", "is damaged"),
        (b"}X\x01\x00\x00\x00a" + _TENSOR + b"K\x00(K\x05t(K\x01t\x89}tRs.", "larger than its storage"),
        (b"}X\x01\x00\x00\x00a" + _TENSOR + b"K\x00(K\x02K\x02t(K\x03K\x01t\x89}tRs.", "larger than its storage"),
        (b"}X\x01\x00\x00\x00a" + _TENSOR + b"K\x00(K\x63K\x63t(K\x00K\x00t\x89}tRs.", "larger than its storage"),
        (b"}X\x01\x00\x00\x00a" + _TENSOR + b"J\xff\xff\xff\xff(K\x01t(K\x01t\x89}tRs.", "impossible shape"),
        (b"", "is damaged|cut short"),
    ],
)
def test_what_no_state_dict_needs_is_refused(tmp_path: Path, program: bytes, refusal: str) -> None:
    with pytest.raises(PickleError, match=refusal):
        read_pickled(archived(tmp_path / "model.bin", program))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
    with pytest.raises(PickleError, match="is compressed"):
        read_pickled(tmp_path / "model.bin")
