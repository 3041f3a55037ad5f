"""Decompress the body of a request, up to the limit of a body."""

import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Final, Protocol, TypeVar

from app.errors import InvalidEncoding, PayloadTooLarge, UnsupportedEncoding
from app.http.api import Received
from app.http.asgi import ENCODED, all_of
from app.http.compression.zstd import zstd
from app.work import go_on

T = TypeVar("T")

CODINGS: Final = 2
"""The most codings that a body has, one over the other; nobody needs more than one."""
STREAMS: Final = 1000
"""The most streams, one after the other, in a body. To begin one takes much longer than to send an empty one."""
PIECE_BYTES: Final = 65536
"""The most that is decompressed at once, and that comes out at once. Between two pieces the work ends if its caller is gone."""
COMPRESSES: Final = 4
"""What comes out of a body of texts is so many times as large: what a caller's turn at the threads counts for."""
ZSTD_WINDOW_LOG: Final = 23
"""The largest window of zstd, 8 MiB, as RFC 9659 has it for HTTP: it is memory that a few bytes can ask for."""


class Stream(Protocol):
    """Decompresses one stream."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether all is returned that can be made of the input so far."""

    @property
    def unused_data(self) -> bytes:
        """What follows the end in the last input."""

    def decompress(self, data: memoryview, max_length: int) -> bytes:
        """Return the next bytes, at most so many."""


def read_decompressed(read: Callable[[Received], T], received: Received, limit_bytes: int) -> T:
    """Read a request after its body is decompressed, if it is compressed. In a thread: a small body may become a large one.

    Raises:
        UnsupportedEncoding: the body is compressed in a way that is not known here.
        InvalidEncoding: it is damaged.
        PayloadTooLarge: it is over the limit when it is decompressed.
    """
    for coding in reversed(_codings(received)):
        received.body = decompress(received.body, coding, limit_bytes)
    received.scope.pop(ENCODED, None)  # it may be read again
    return read(received)


def _codings(received: Received) -> list[str]:
    """Return how a body is compressed, in the order in which that was done."""
    codings = [coding.strip().lower() for coding in all_of(received.scope, b"content-encoding").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not set(codings) <= set(_BEGIN):
        raise UnsupportedEncoding(
            "This Content-Encoding is not read here. Send gzip, deflate, zstd, or no compression."
        )
    if len(codings) > CODINGS:
        raise UnsupportedEncoding(f"The body is compressed over {CODINGS} times. Compress it once.")
    return codings


def decompress(body: bytes, coding: str, limit_bytes: int) -> bytes:
    """Return what a body holds, never more than the limit and a piece of it.

    Raises:
        InvalidEncoding: the body is cut off, damaged, compressed in another way, or something follows it.
        PayloadTooLarge: there is more in it.
    """
    if not body:
        return body
    compressed, output = memoryview(body), BytesIO()
    at = streams = 0
    while at < len(body):
        streams += 1
        if streams > STREAMS:
            raise InvalidEncoding(f"The body consists of over {STREAMS} compressed streams. Compress it as one.")
        stream = _BEGIN[coding](compressed)
        while not stream.eof:
            go_on()
            piece = compressed[at : at + PIECE_BYTES] if stream.needs_input else compressed[:0]
            if stream.needs_input and not piece:
                raise InvalidEncoding("The compressed body is cut off. Send it completely.")
            at += len(piece)
            try:
                output.write(stream.decompress(piece, PIECE_BYTES))
            except (zlib.error, zstd.ZstdError):
                raise _damaged(coding, streams) from None
            if output.tell() > limit_bytes:
                raise PayloadTooLarge(
                    f"The body is over {limit_bytes} bytes when it is decompressed. Send fewer or shorter inputs, or raise "
                    "BERT_MAX_BODY_BYTES."
                )
        at -= len(stream.unused_data)
        if coding == "deflate" and at < len(body):  # which, unlike the others, is one stream
            raise _damaged(coding, streams + 1)
    return output.getvalue()


def _damaged(coding: str, streams: int) -> InvalidEncoding:
    if streams > 1:
        return InvalidEncoding("Something follows the end of the compressed body. Send the body alone.")
    return InvalidEncoding(
        f"The body is damaged, or is not compressed as {coding}, which its Content-Encoding says. Compress it again, or leave "
        "out that header."
    )


class _Zlib:
    """A stream of zlib."""

    def __init__(self, window_bits: int) -> None:
        self._stream: Final = zlib.decompressobj(window_bits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: memoryview, max_length: int) -> bytes:
        output = self._stream.decompress(data or self._stream.unconsumed_tail, max_length)
        self.needs_input = len(output) < max_length
        return output


def _begin_gzip(_: memoryview) -> Stream:
    return _Zlib(zlib.MAX_WBITS + 16)


def _begin_deflate(body: memoryview) -> Stream:
    """Begin zlib's format, which the name stands for, or the bare one, which some clients send by this name."""
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] * 256 + body[1]) % 31 == 0
    return _Zlib(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _begin_zstd(_: memoryview) -> Stream:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})


_BEGIN: Final[Mapping[str, Callable[[memoryview], Stream]]] = {
    "gzip": _begin_gzip,
    "x-gzip": _begin_gzip,
    "deflate": _begin_deflate,
    "zstd": _begin_zstd,
}
