"""A file of keys: what its lines may say, and what is told of a wrong one."""

from hashlib import sha256

import pytest

from app.engine.callers import Caller
from app.errors import StartupError, Unauthorized
from app.http.keys import Keys, parse_keys

SECRET = "sk-0123456789abcdef"
HASHED = f"sha256:{sha256(SECRET.encode()).hexdigest()}"


def test_each_line_gives_a_caller_a_key() -> None:
    keys = Keys(
        parse_keys(
            "# name key options\n"
            "\n"
            f"search {HASHED} share=2.5\n"
            "\tnightly\tk2  tokens_per_second=1000 burst=5000  \r\n"
            "a.b-c_1 k3 tokens_per_second=10 # comment".partition(" # ")[0]
        )
    )
    assert keys.caller_of(SECRET.encode()) == Caller("search", share=2.5)
    assert keys.caller_of(b"k2") == Caller("nightly", tokens_per_second=1000, burst=5000)
    assert keys.caller_of(b"k3") == Caller("a.b-c_1", tokens_per_second=10, burst=10)
    for other in (b"", b"k", b"k22", HASHED.encode(), b"search"):
        with pytest.raises(Unauthorized):
            keys.caller_of(other)


def test_a_hash_may_be_in_either_case() -> None:
    upper = f"sha256:{HASHED.removeprefix('sha256:').upper()}"
    assert parse_keys(f"search {upper}") == parse_keys(f"search {SECRET}")


def test_a_name_may_have_an_old_and_a_new_key() -> None:
    callers = parse_keys("search old\nother-1 x\nsearch new share=3\n")
    assert callers[sha256(b"old").digest()] == callers[sha256(b"new").digest()] == Caller("search", share=3)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (SECRET, "there is no key"),
        (f"na/me {SECRET}", "the name should be"),
        (f"-name {SECRET}", "the name should be"),
        (f"{'n' * 65} {SECRET}", "the name should be"),
        (f"n\xe4me {SECRET}", "the name should be"),
        (f"other {SECRET}", "not be 'other'"),
        (f"name sha256:{SECRET}", "64 hexadecimal digits"),
        (f"name sha256:{'0' * 63}", "64 hexadecimal digits"),
        (f"name sha256:{sha256().hexdigest()}", "that of an empty key, which everybody has"),
        (f"name {SECRET}\u200b", "a character that cannot be seen"),
        (f"name {SECRET} {SECRET}", "nothing but share="),
        (f"name {SECRET} share", "share should be a number above 0"),
        (f"name {SECRET} share=0", "share should be a number above 0"),
        (f"name {SECRET} share=-1", "share should be a number above 0"),
        (f"name {SECRET} share=nan", "share should be a number above 0"),
        (f"name {SECRET} share=1e9", "share should be a number above 0"),
        (f"name {SECRET} share=1 share=2", "at most once"),
        (f"name {SECRET} tokens_per_second={SECRET}", "tokens_per_second should be a number"),
        (f"name {SECRET} burst=10", "burst means nothing without"),
        ("name first-key", "its key is that of line 2"),
        (f"first {SECRET} share=4", "options in line 2, too"),
    ],
)
def test_a_wrong_line_is_named_without_what_it_says(line: str, says: str) -> None:
    with pytest.raises(StartupError) as refused:
        parse_keys(f"# keys\nfirst first-key share=2\n{line}\n")
    message = str(refused.value)
    assert message.startswith("line 3: ")
    assert says in message
    assert SECRET not in message
    assert "first-key" not in message


def test_a_file_without_keys_is_refused() -> None:
    with pytest.raises(StartupError, match="no line has a key"):
        parse_keys("# none yet\n\n")
