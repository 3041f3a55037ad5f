"""The keys that callers show, each known by its SHA-256.

What a caller sends is hashed once and looked up, so the time that takes tells neither how many keys there are nor how much of one
was right: nobody can choose the bits of a hash. Keys are long and random, so a slow hash as passwords need (bcrypt) would protect
nothing, and take longer than the request.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from app.engine.callers import Caller
from app.errors import StartupError, Unauthorized
from app.telemetry.metrics import OTHER_CALLERS

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASHED: Final = "sha256:"
_OPTIONS: Final = ("share", "tokens_per_second", "burst")


class Keys:
    """Tells whose a key is. Use it on one event loop."""

    def __init__(self, callers: Mapping[bytes, Caller | None], refusal: str = Unauthorized.default) -> None:
        """Take the callers by the SHA-256 of their keys, None for nobody in particular, and what others are told."""
        self.callers = callers
        self.refusal: Final = refusal

    def caller_of(self, given: bytes) -> Caller | None:
        """Return whose key this is.

        Raises:
            Unauthorized: nobody's.
        """
        try:
            return self.callers[sha256(given).digest()]
        except KeyError:
            raise Unauthorized(self.refusal) from None


def digest_of(key: str) -> bytes:
    """Return how a key is known.

    Raises:
        StartupError: no caller could send it: it has a line's end, or a mark that an editor has left.
    """
    if not key.isprintable():
        raise StartupError("the key has a character that cannot be seen. Write it anew, on one line.")
    return sha256(key.encode()).digest()


_OF_NO_KEY: Final = digest_of("")
"""What `sha256sum` makes of nothing, such as a variable that is misspelt. Whoever sends no key would have it."""


class _Line(NamedTuple):
    number: int
    name: str
    digest: bytes
    options: Mapping[str, float]


def parse_keys(text: str) -> dict[bytes, Caller]:
    """Return the callers by the digests of their keys, in the order of the lines `NAME KEY [OPTION=NUMBER]...`.

    A name may have several keys, one a line, of which one has its options.

    Raises:
        StartupError: a line is wrong. The message begins with its number, and has nothing of what it says.
    """
    lines: dict[bytes, _Line] = {}
    options: dict[str, _Line] = {}
    for number, row in enumerate(text.splitlines(), 1):
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        line = _parse_line(number, row.split())
        before = lines.setdefault(line.digest, line)
        if before is not line:
            raise StartupError(f"line {number}: its key is that of line {before.number}. Give every caller its own.")
        if line.options and options.setdefault(line.name, line) is not line:
            raise StartupError(
                f"line {number}: its name has options in line {options[line.name].number}, too. Write them once."
            )
    if not lines:
        raise StartupError("no line has a key. Write NAME KEY on a line of its own for every caller.")
    return {
        line.digest: Caller(line.name, **options[line.name].options) if line.name in options else Caller(line.name)
        for line in lines.values()
    }


def _parse_line(number: int, words: list[str]) -> _Line:
    name, *rest = words
    if not NAME.fullmatch(name) or name == OTHER_CALLERS:
        raise StartupError(
            f"line {number}: the name should be 1 to 64 letters, digits, dots, dashes and underscores, begin with a letter or a "
            f"digit, and not be '{OTHER_CALLERS}'."
        )
    if not rest:
        raise StartupError(f"line {number}: there is no key. Write NAME KEY.")
    key, *given = rest
    if key.startswith(_HASHED):
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", key.removeprefix(_HASHED)):
            raise StartupError(
                f"line {number}: after sha256: should be the 64 hexadecimal digits that sha256sum writes."
            )
        digest = bytes.fromhex(key.removeprefix(_HASHED))
        if digest == _OF_NO_KEY:
            raise StartupError(f"line {number}: the hash is that of an empty key, which everybody has. Hash the key.")
    else:
        try:
            digest = digest_of(key)
        except StartupError as error:
            raise StartupError(f"line {number}: {error}") from None
    return _Line(number, name, digest, _parse_options(number, given))


def _parse_options(number: int, given: list[str]) -> dict[str, float]:
    options: dict[str, float] = {}
    for word in given:
        option, _, value = word.partition("=")
        if option not in _OPTIONS or option in options:
            raise StartupError(
                f"line {number}: after the key should be nothing but share=, tokens_per_second= and burst=, each at most once."
            )
        if not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", value) or not float(value):
            raise StartupError(f"line {number}: {option} should be a number above 0, as in {option}=2.")
        options[option] = float(value)
    if "burst" in options and "tokens_per_second" not in options:
        raise StartupError(f"line {number}: burst means nothing without tokens_per_second.")
    if "tokens_per_second" in options:
        options.setdefault("burst", options["tokens_per_second"])
    return options
