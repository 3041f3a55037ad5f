"""What a start measured is there for the next one, and nothing else is taken for it."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from app.engine.messages import Measured, Speed
from app.engine.tuning_cache import KEPT_FOR_S, MAX_FILE_BYTES, MAX_FILES, Conditions, TuningCache

CONDITIONS: Final = Conditions(
    bundle="b" * 64,
    variant="cpu-fp32",
    threads=0,
    batch_tokens=0,
    processor="x86_64 Linux\nmodel name\t: one",
    cores=2.5,
    runtime="onnxruntime 1.0.0",
    release="0.1.0",
)
MEASURED: Final = Measured(
    identity=CONDITIONS.bundle,
    variant="cpu-fp32",
    provider="CPUExecutionProvider",
    threads=[1, 2],
    speed=Speed(128, 1e-4, [(3, 1e-3), (119, 0.0119), (250, 0.026)]),
    taken_bytes=3_000_000_000,
)


@pytest.fixture
def cache(tmp_path: Path) -> TuningCache:
    return TuningCache(tmp_path / "made" / "cache", CONDITIONS)


@pytest.fixture
def kept(cache: TuningCache) -> TuningCache:
    cache.remember(MEASURED)
    return cache


def _names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_what_was_measured_is_recalled(kept: TuningCache) -> None:
    recalled = TuningCache(kept.path.parent, CONDITIONS).recall()
    assert recalled == MEASURED
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700
    assert kept.path.stat().st_size < MAX_FILE_BYTES / 4


def test_nothing_is_recalled_of_what_was_never_measured(cache: TuningCache) -> None:
    assert cache.recall() is None


def test_what_is_forgotten_is_not_recalled(kept: TuningCache) -> None:
    kept.forget()
    kept.forget()
    assert kept.recall() is None
    assert _names(kept.path.parent) == set()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("bundle", "c" * 64), ("variant", "cpu-int8"), ("threads", 1), ("batch_tokens", 64), ("processor", "aarch64 Linux"),
        ("cores", 2.0), ("runtime", "onnxruntime 1.0.1"), ("release", "0.1.1"), ("form", 0),
    ],
)  # fmt: skip
def test_what_was_measured_under_other_conditions_is_not_recalled(kept: TuningCache, name: str, other: Any) -> None:
    """Also if its file is given the name of the right one."""
    unlike = TuningCache(kept.path.parent, msgspec.structs.replace(CONDITIONS, **{name: other}))
    assert unlike.recall() is None
    kept.path.rename(unlike.path)
    assert unlike.recall() is None


def test_every_condition_has_a_case_above() -> None:
    [cases] = [mark.args[1] for mark in test_what_was_measured_under_other_conditions_is_not_recalled.pytestmark]
    assert {name for name, _ in cases} == set(Conditions.__struct_fields__)


def _changed(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content + b"}",
        lambda content: b"\0" * len(content),
        lambda content: b"\xff\xfe" + content,
        lambda _: b"[" * MAX_FILE_BYTES,
        lambda content: content + b" " * MAX_FILE_BYTES,
        lambda _: b"null",
        _changed(threads=[]),
        _changed(threads=[0, 1]),
        _changed(threads=[1, 100_000]),
        _changed(threads=[2, 1]),
        _changed(threads=["2"]),
        _changed(threads=2),
        _changed(provider=1),
        _changed(budget_tokens=0),
        _changed(budget_tokens=1 << 40),
        _changed(seconds_per_token=0),
        _changed(seconds_per_token=-1e-4),
        _changed(seconds_per_token=1e300),
        _changed(seconds_per_token=float("nan")),
        _changed(seconds_by_tokens=[]),
        _changed(seconds_by_tokens=[[3, 1e-3], [3, 1e-3]]),
        _changed(seconds_by_tokens=[[9, 1e-3], [3, 1e-3]]),
        _changed(seconds_by_tokens=[[3, 1e-3, 1]]),
        _changed(seconds_by_tokens=[[one, 1e-3] for one in range(1, 100)]),
        _changed(conditions={}),
        _changed(more=1),
    ],
)
def test_a_damaged_file_is_as_none(
    kept: TuningCache, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    kept.path.write_bytes(damage(kept.path.read_bytes()))
    assert kept.recall() is None
    [record] = caplog.records
    assert record.levelname == "INFO"
    assert str(kept.path) in record.message
    kept.remember(MEASURED)
    assert kept.recall() == MEASURED


def test_a_link_is_not_followed(kept: TuningCache) -> None:
    elsewhere = kept.path.rename(kept.path.parent.parent / "elsewhere")
    kept.path.symlink_to(elsewhere)
    assert kept.recall() is None
    before = elsewhere.read_bytes()
    kept.remember(MEASURED)  # in its place, not where it leads
    assert not kept.path.is_symlink()
    assert kept.recall() == MEASURED
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_not_read(kept: TuningCache, mode: int) -> None:
    kept.path.chmod(mode)
    assert kept.recall() is None


def test_a_file_of_another_user_is_not_read(kept: TuningCache, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert kept.recall() is None


@pytest.mark.parametrize("age_s", [KEPT_FOR_S + 60, -60])
def test_a_file_that_is_old_or_of_the_future_is_not_read(kept: TuningCache, age_s: float) -> None:
    written_at = time.time() - age_s
    os.utime(kept.path, (written_at, written_at))
    assert kept.recall() is None
    kept.remember(MEASURED)
    assert kept.recall() == MEASURED


def test_a_pipe_and_a_folder_are_not_waited_for(cache: TuningCache) -> None:
    cache.path.parent.mkdir(parents=True)
    os.mkfifo(cache.path, 0o600)
    assert cache.recall() is None
    cache.path.unlink()
    cache.path.mkdir()
    assert cache.recall() is None
    cache.remember(MEASURED)  # a folder is not replaced
    assert _names(cache.path.parent) == {cache.path.name}


def _is_a_file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("")


def _cannot_be_written_to(folder: Path) -> None:
    folder.parent.mkdir()
    folder.symlink_to("/proc/self")  # where nobody can make a file, not even root


@pytest.mark.parametrize("make", [_is_a_file, _cannot_be_written_to])
def test_a_folder_that_cannot_be_used_costs_a_line_of_the_log(
    cache: TuningCache, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    make(cache.path.parent)
    cache.remember(MEASURED)
    assert cache.recall() is None
    cache.forget()
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert "BERT_TUNING_CACHE_DIR" in caplog.records[0].message


def test_a_full_disk_leaves_what_was_there(
    kept: TuningCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def full(_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.engine.tuning_cache.msgspec.json.encode", full)
    kept.remember(MEASURED)
    assert "No space left on device" in caplog.text
    assert _names(kept.path.parent) == {kept.path.name}
    assert kept.recall() == MEASURED


def test_two_servers_at_once_leave_one_whole_file(cache: TuningCache) -> None:
    """Each reads what is whole at any time."""
    other = replace(MEASURED, threads=[1])
    both, start, seen = [MEASURED, other], threading.Barrier(2), []

    def serve(measured: Measured) -> None:
        mine = TuningCache(cache.path.parent, CONDITIONS)
        start.wait()
        for _ in range(50):
            mine.remember(measured)
            seen.append(mine.recall())

    servers = [threading.Thread(target=serve, args=(one,)) for one in both]
    for one in servers:
        one.start()
    for one in servers:
        one.join()
    assert len(seen) == 100
    assert all(one in both for one in seen)
    assert _names(cache.path.parent) == {cache.path.name}


def test_the_oldest_files_are_removed_and_those_of_others_stay(kept: TuningCache) -> None:
    folder = kept.path.parent
    names = [f"{number:064x}.json" for number in range(MAX_FILES)] + ["abandoned.part"]
    for age, name in enumerate([*names, "of-another.json", "notes.txt"]):
        (folder / name).write_text("")
        os.utime(folder / name, (1000 - age, 1000 - age))
    kept.remember(MEASURED)
    assert _names(folder) == {kept.path.name, *names[: MAX_FILES - 1], "of-another.json", "notes.txt"}
