"""Compressed bodies are decompressed up to the limit, in pieces; what is damaged is refused and says how."""

import gzip
import json
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidEncoding, PayloadTooLarge, ServiceError, UnsupportedEncoding
from app.http.api import Received
from app.http.compression.bodies import PIECE_BYTES, STREAMS, decompress, read_decompressed
from app.work import Dropped, Work

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 4 * 2**20
BODY = json.dumps({"inputs": [f"the fox number {number}" for number in range(9000)]}).encode()
assert len(BODY) > 2 * PIECE_BYTES


def bare_deflate(body: bytes) -> bytes:
    return zlib.compress(body, wbits=-zlib.MAX_WBITS)


def zstd_checked(body: bytes) -> bytes:
    return zstd.compress(body, options={zstd.CompressionParameter.checksum_flag: 1})


FORMS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare_deflate),
    ("zstd", zstd_checked),
]
forms = pytest.mark.parametrize(("coding", "compress"), FORMS, ids=["gzip", "zlib", "deflate", "zstd"])


def read(body: bytes, *codings: bytes, limit: int = LIMIT) -> bytes:
    received = Received({"headers": [(b"content-encoding", coding) for coding in codings]}, body, {})
    return read_decompressed(lambda received: received.body, received, limit)


@forms
def test_a_body_is_what_was_compressed(coding: str, compress: Callable[[bytes], bytes]) -> None:
    assert decompress(compress(BODY), coding, len(BODY)) == BODY


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ([b"identity"], BODY),
        ([b""], BODY),
        ([b"GZip"], gzip.compress(BODY)),
        ([b"x-gzip"], gzip.compress(BODY)),
        ([b"deflate, gzip"], gzip.compress(zlib.compress(BODY))),
        ([b"deflate", b"identity", b" gzip "], gzip.compress(zlib.compress(BODY))),
    ],
)
def test_codings_are_undone_last_first_whatever_their_case(codings: list[bytes], body: bytes) -> None:
    assert read(body, *codings) == BODY


@pytest.mark.parametrize("coding", [b"br", b"gzip, br", b"compress", b"gzip;q=1", b"\xff", b"gzip, gzip, gzip"])
def test_other_codings_are_refused_with_those_that_are_read(coding: bytes) -> None:
    with pytest.raises(UnsupportedEncoding) as refused:
        read(gzip.compress(BODY), coding)
    assert dict(refused.value.headers) == {b"accept-encoding": b"gzip, deflate, zstd"}


@forms
def test_the_limit_counts_what_comes_out_and_bounds_memory(coding: str, compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(256 * 2**20))
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=f"over {LIMIT} bytes when it is decompressed"):
            decompress(bomb, coding, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * LIMIT  # what came out, once more while it grows


def test_the_limit_counts_what_comes_out_of_each_coding() -> None:
    with pytest.raises(PayloadTooLarge):
        read(gzip.compress(gzip.compress(bytes(2**20)) * 2), b"gzip, gzip", limit=2**20)
    outer = gzip.compress(zlib.compress(b"", 0) + bytes(2 * 2**20))
    with pytest.raises(PayloadTooLarge):
        read(outer, b"deflate, gzip", limit=2**20)


def test_a_window_of_zstd_that_takes_much_memory_is_refused() -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    with pytest.raises(InvalidEncoding, match="damaged, or is not compressed as zstd"):
        decompress(compressor.compress(b"{}") + compressor.flush(), "zstd", LIMIT)


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_streams_one_after_the_other_are_one_body_but_only_so_many(
    coding: str, compress: Callable[[bytes], bytes]
) -> None:
    assert decompress(compress(b"{") + compress(BODY) + compress(b"}"), coding, LIMIT) == b"{" + BODY + b"}"
    assert decompress(compress(b"") * STREAMS, coding, LIMIT) == b""
    with pytest.raises(InvalidEncoding, match=f"over {STREAMS} compressed streams"):
        decompress(compress(b"") * 200_000, coding, LIMIT)


@forms
def test_a_body_that_is_cut_off_is_refused(coding: str, compress: Callable[[bytes], bytes]) -> None:
    whole = compress(BODY)
    for length in [1, 2, 9, len(whole) // 2, len(whole) - 1]:
        with pytest.raises(InvalidEncoding, match="cut off"):
            decompress(whole[:length], coding, LIMIT)


@forms
def test_what_follows_a_body_is_refused(coding: str, compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(InvalidEncoding, match="Something follows the end"):
        decompress(compress(BODY) + b"\0secret", coding, LIMIT)


@pytest.mark.parametrize(
    ("coding", "compress", "checksum"),
    [("gzip", gzip.compress, -8), ("deflate", zlib.compress, -1), ("zstd", zstd_checked, -1)],
)
def test_a_wrong_checksum_is_refused(coding: str, compress: Callable[[bytes], bytes], checksum: int) -> None:
    body = bytearray(compress(BODY))
    body[checksum] ^= 1
    with pytest.raises(InvalidEncoding, match="is damaged"):
        decompress(bytes(body), coding, LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_plain_json_is_not_compressed(coding: str) -> None:
    with pytest.raises(InvalidEncoding, match=f"is not compressed as {coding}"):
        decompress(BODY, coding, LIMIT)


def test_an_empty_body_stays_empty() -> None:
    assert read(b"", b"gzip") == b""


def test_the_work_ends_when_its_caller_is_gone() -> None:
    work = Work(60.0)
    work.drop()
    with pytest.raises(Dropped):
        work.run(lambda: decompress(gzip.compress(BODY), "gzip", LIMIT))


@given(data=st.data(), form=st.sampled_from(FORMS))
def test_damaged_bodies_raise_nothing_but_refusals(
    data: st.DataObject, form: tuple[str, Callable[[bytes], bytes]]
) -> None:
    coding, compress = form
    body = bytearray(compress(b'{"inputs": ["Zwetschgenknoedel", "Zwetschgenknoedel"]}' * 3))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with suppress(ServiceError):
        assert len(decompress(bytes(body), coding, 1000)) <= 1000
