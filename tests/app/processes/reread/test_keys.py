"""The file of keys is read anew when it is another, and one that is wrong changes nothing."""

import asyncio
import logging
import os
import resource
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.engine.callers import Caller
from app.errors import StartupError, Unauthorized
from app.processes.reread import changes
from app.processes.reread.keys import MOST_BYTES, KeyFiles, open_admin_key, open_callers_keys
from app.settings import Settings


def names(file: KeyFiles, *keys: str) -> list[str | None]:
    found: list[str | None] = []
    for key in keys:
        try:
            caller = file.keys.caller_of(key.encode())
        except Unauthorized:
            found.append(None)
        else:
            assert caller is not None
            found.append(caller.name)
    return found


def keys_of(path: Path, single: str | None = None, single_file: Path | None = None) -> KeyFiles:
    settings = Settings(
        api_keys_file=path, api_key=None if single is None else SecretStr(single), api_key_file=single_file
    )
    keys = open_callers_keys(settings)
    assert keys is not None
    return keys


def is_read(file: KeyFiles) -> bool:
    """Look as often as it takes to see that a file is another and stays so."""
    first, second = file.look(), file.look()
    assert not first
    return second


def test_a_changed_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("search old\n")
    file = keys_of(path)
    assert not file.look()
    path.write_text("search new\nnightly k2\n")
    assert is_read(file)
    assert not file.look()
    assert names(file, "old", "new", "k2") == [None, "search", "nightly"]
    assert file.names == ["search", "nightly"]


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("search k1\nnightly k2\n")
    file = keys_of(path)
    with path.open("w") as writing:
        for line in ("search k1\n", "nightly k2\n", "trial k3\n"):
            writing.write(line)
            writing.flush()
            assert not file.look()
            assert names(file, "k1", "k2") == ["search", "nightly"]
    assert file.look()
    assert names(file, "k1", "k2", "k3") == ["search", "nightly", "trial"]


def test_files_with_one_key_are_read_anew(tmp_path: Path) -> None:
    path, several = tmp_path / "key", tmp_path / "keys"
    path.write_text("old\n")
    several.write_text("search k1\n")
    beside = keys_of(several, single_file=path)
    for file in (open_callers_keys(Settings(api_key_file=path)), open_admin_key(Settings(admin_key_file=path)), beside):
        assert file is not None
        path.write_text("old\n")
        is_read(file)
        file.keys.caller_of(b"old")
        path.write_text("\ufeffnew\r\n")  # as editors of Windows write it
        assert is_read(file)
        file.keys.caller_of(b"new")
        with pytest.raises(Unauthorized):
            file.keys.caller_of(b"old")
    assert names(beside, "k1", "new") == ["search", "default"]


@pytest.mark.parametrize("key", ["one\ntwo", "t\tab", "with\udcffbyte"])
def test_a_single_key_that_no_caller_can_send_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(key.encode(errors="surrogateescape"))
    for settings in (Settings(api_key=SecretStr(key)), Settings(api_key_file=path), Settings(admin_key_file=path)):
        with pytest.raises(StartupError, match=r"BERT_A.*(cannot be seen|not UTF-8)") as refused:
            _ = open_callers_keys(settings) or open_admin_key(settings)
        assert key not in str(refused.value)


@pytest.mark.parametrize("kind", ["a pipe", "too large"])
def test_what_would_hold_up_a_process_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, MOST_BYTES + 1)
    with pytest.raises(StartupError, match="not a regular file" if kind == "a pipe" else "is over"):
        keys_of(path)


def test_a_secret_of_kubernetes_is_read_anew_when_its_link_changes(tmp_path: Path) -> None:
    """The file is a link into a link to a folder, which is replaced as a whole: both files may be equally old and long."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(f"search key-{version}\n")
        os.utime(tmp_path / version / "keys", (1e9, 1e9))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keys").symlink_to("..data/keys")
    file = keys_of(tmp_path / "keys")
    (tmp_path / "..data_tmp").symlink_to("v2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert is_read(file)
    assert names(file, "key-v1", "key-v2") == [None, "search"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"search key-2 share=much\n", "line 1: share should be"),
        (b"", "no line has a key"),
        (b"\xff", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_told_of_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: bytes | None, says: str
) -> None:
    path = tmp_path / "keys"
    path.write_text("search key-1\n")
    file = keys_of(path)
    if wrong is None:
        path.unlink()
    else:
        path.write_bytes(wrong)
    for _ in range(3):
        assert not file.look()
    [record] = caplog.records
    assert (record.levelno, says in record.getMessage()) == (logging.ERROR, True)
    assert "key-" not in record.getMessage()
    assert names(file, "key-1", "key-2") == ["search", None]
    path.write_text("search key-3\n")
    assert is_read(file)
    assert names(file, "key-1", "key-3") == [None, "search"]


def test_a_key_that_is_revoked_while_no_file_can_be_opened_stays_no_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("search k1\nnightly k2\n")
    file = keys_of(path)
    path.write_text("search k1\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        looks = [file.look() for _ in range(4)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not any(looks)
    [record] = caplog.records
    assert "Too many open files" in record.getMessage()
    assert file.look()
    assert names(file, "k1", "k2") == ["search", None]


def test_the_single_key_counts_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\ufeffsearch k1\r\n")
    file = keys_of(path, "single")
    assert names(file, "k1", "single") == ["search", "default"]
    path.write_text("search k1\ndefault k2 share=3\n")
    assert is_read(file)
    assert file.keys.caller_of(b"single") == file.keys.caller_of(b"k2") == Caller("default", share=3)
    path.write_text("search single\n")
    assert is_read(file)
    assert names(file, "single") == ["search"]


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "LOOK_EVERY_S", 0.001)


@pytest.mark.usefixtures("_quickly")
def test_a_process_that_is_started_while_the_file_is_wrong_waits_for_a_right_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("search\n")
    settings = Settings(api_keys_file=path)
    with pytest.raises(StartupError):
        keys_of(path)

    async def main() -> None:
        waiting = asyncio.create_task(changes.until_right(lambda: open_callers_keys(settings)))
        await asyncio.sleep(0)  # it has looked once
        assert len(caplog.records) == 1
        assert not waiting.done()
        async with asyncio.timeout(20):
            path.write_text("search k1\n")
            await waiting

    asyncio.run(main())
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("_quickly")
def test_whoever_watches_is_told_of_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("search k1\n")
    file = keys_of(path)

    async def main() -> None:
        changed = asyncio.Event()

        def look() -> None:
            if file.look():
                changed.set()

        watching = asyncio.create_task(changes.look_again(look))
        path.write_text("nightly k2\n")
        async with asyncio.timeout(20):
            await changed.wait()
        watching.cancel()

    asyncio.run(main())
    assert file.names == ["nightly"]
