"""`python -m model_export`, as a person or a Makefile calls it, in a process of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from app.bundle.files import Bundle, find_bundles, load_bundle
from app.errors import BundleError
from tests.conftest import BundleOf
from tests.model_export.support import CHECKPOINTS, ROOT

pytestmark = pytest.mark.slow

Copy = Callable[..., Path]

TIMEOUT_S = 120

PAUSING = """
import contextlib, runpy, signal, sys
import model_export.report

# A shell starts what it runs in the background with Ctrl-C ignored, and the tests may run there.
signal.signal(signal.SIGINT, signal.default_int_handler)

@contextlib.contextmanager
def pausing():
    def step(name):
        if name == "Writing the manifest":
            print("everything but the manifest is written", flush=True)
            sys.stdin.readline()
    yield step

model_export.report.progress = pausing
runpy.run_module("model_export", run_name="__main__", alter_sys=True)
"""
"""The command, stopped where an interruption hurts most, until it reads a line."""


def run(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "model_export", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_export_and_verify(tmp_path: Path) -> None:
    output = tmp_path / "models" / "mood"
    variants = ("--variants", "cpu-fp32,cuda-fp16")
    done = run(
        "export", "--checkpoint", CHECKPOINTS / "bert-single-label", "--output", output, "--max-length", "30", *variants
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "Reading the checkpoint ..."
    for shown in (
        "classify",
        "négatif, neutral, positive",
        "2 layers of 32",
        "30 tokens",
        "cpu-fp32",
        "cuda-fp16",
        " s\n",
    ):
        assert shown in done.stdout
    assert load_bundle(output).manifest.max_length == 30
    assert load_bundle(output).manifest.name == "mood"

    done = run("verify", output)
    assert done.returncode == 0, done.stderr
    assert "Verified" in done.stdout
    assert "0.0e+00" in done.stdout


def test_label_that_looks_like_markup(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label", id2label={"0": "[/bold]", "1": "[red]bad", "2": "ok"})
    done = run("export", "--checkpoint", folder, "--output", tmp_path / "mood", "--variants", "cpu-fp32")
    assert done.returncode == 0, done.stderr
    assert "[/bold], [red]bad, ok" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_label_that_the_terminal_cannot_show(copy_of: Copy, tmp_path: Path, encoding: str) -> None:
    folder = copy_of("bert-single-label", id2label={"0": "\N{WARNING SIGN}", "1": "bad", "2": "ok"})
    arguments = ("export", "--checkpoint", folder, "--output", tmp_path / "mood", "--variants", "cpu-fp32")
    done = run(*arguments, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert r"\u26a0, bad, ok" in done.stdout


@pytest.mark.parametrize(
    ("name", "recorded"),
    [("mod\N{LATIN SMALL LETTER E WITH GRAVE}le".encode(), "mod\u00e8le"), (b"mod\xffel", r"mod\xffel")],
)
def test_folder_whose_name_the_locale_cannot_read(tmp_path: Path, name: bytes, recorded: str) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    shutil.copytree(CHECKPOINTS / "bert-single-label", folder)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ("--output", tmp_path / "mood", "--variants", "cpu-fp32")
    done = run("export", "--checkpoint", folder, *arguments, **ascii_only)
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "mood").manifest.source.checkpoint == f"{tmp_path}/{recorded}"


@pytest.mark.parametrize(
    "where", [{"COLUMNS": "40"}, {"FORCE_COLOR": "1", "TERM": "dumb"}], ids=["in a file", "on a terminal of 80"]
)
def test_no_column_of_the_table_is_cut(bundle_of: BundleOf, where: dict[str, str]) -> None:
    done = run("verify", bundle_of("bert-regression", variants=("cpu-fp32", "cuda-fp16")), **where)
    assert done.returncode == 0, done.stderr
    heading, *rows = (line.rstrip() for line in done.stdout.splitlines()[-3:])
    assert heading.endswith("  tolerance  checked with")
    assert [row.split()[-1] for row in rows] == ["onnxruntime", "onnx.reference"]


@pytest.mark.parametrize("tolerance", ["-1", "0", "nan", "inf", "x"])
def test_tolerance_that_is_no_number_above_zero(tolerance: str) -> None:
    done = run("export", "--checkpoint", "x", "--output", "y", "--tolerance", tolerance)
    assert done.returncode == 2
    assert f"argument --tolerance: '{tolerance}' is not a number above 0" in done.stderr


def test_verify_finds_a_flipped_bit(bundles: Mapping[str, Bundle], tmp_path: Path) -> None:
    folder = shutil.copytree(bundles["distilbert-two-labels"].folder, tmp_path / "mood")
    content = bytearray((folder / "cpu-fp32.onnx").read_bytes())
    content[-100] ^= 1
    (folder / "cpu-fp32.onnx").write_bytes(content)
    done = run("verify", folder)
    assert done.returncode == 1
    assert "cpu-fp32.onnx is not the file that was exported" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_refusal_is_one_line_and_no_traceback(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label", hidden_act="silu")
    done = run("export", "--checkpoint", folder, "--output", tmp_path / "models" / "mood")
    assert done.returncode == 1
    assert done.stdout == ""
    step, error = done.stderr.splitlines()
    assert step == "Reading the checkpoint ..."
    assert error.startswith("error: ")
    assert "activation 'silu'" in error
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "required: command"),
        (("export", "--output", "x"), "required: --checkpoint"),
        (("export", "--checkpoint", "x", "--output", "y", "--variants", "cpu-int4"), "cpu-int4: choose from cpu-fp32,"),
        (("export", "--checkpoint", "x", "--output", "y", "--task", "sing"), "invalid choice: 'sing'"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], expected: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    done = run("export", "--checkpoint", CHECKPOINTS / "bert-single-label", "--output", tmp_path / "models" / "mood")
    assert done.returncode == 1
    [error] = done.stderr.splitlines()  # before the first step
    expected = r"error: --output .*mood cannot be written: .*models: Not a directory\. Let the user .* or choose another folder\."
    assert re.fullmatch(expected, error)


def test_disk_that_is_full_is_told_in_a_sentence(tmp_path: Path) -> None:
    program = """if True:
        import errno, os, sys
        import model_export.__main__ as command

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        command.export = full
        sys.exit(command.main(sys.argv[1:]))
    """
    arguments = ["export", "--checkpoint", "x", "--output", str(tmp_path / "mood")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: A file of the export cannot be read or written: No space left on device.\n"


def test_no_bundle_to_verify(tmp_path: Path) -> None:
    done = run("verify", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path} is not a bundle")


# --- interruptions


def paused_export(output: Path) -> "subprocess.Popen[str]":
    """Start an export and return it when everything but the manifest is written."""
    arguments = ["export", "--checkpoint", str(CHECKPOINTS / "bert-single-label"), "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSING, *arguments, "--variants", "cpu-fp32"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "everything but the manifest is written\n"
    return process


def interrupt(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    process.send_signal(number)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    return stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_interrupted_export_leaves_no_bundle(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = paused_export(tmp_path / "models" / "mood")
    stderr = interrupt(process, number)
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert not (tmp_path / "models" / "mood").exists()
    with pytest.raises(BundleError, match="No bundle in"):
        find_bundles(tmp_path / "models")
    if number != signal.SIGKILL:
        assert list((tmp_path / "models").iterdir()) == []


def test_next_export_removes_what_killed_ones_left_and_no_other(tmp_path: Path) -> None:
    output = tmp_path / "models" / "mood"
    interrupt(paused_export(output), signal.SIGKILL)
    [killed] = output.parent.iterdir()
    living = paused_export(output)
    [of_the_living] = set(output.parent.iterdir()) - {killed}
    assert not killed.exists()
    done = run(
        "export", "--checkpoint", CHECKPOINTS / "bert-single-label", "--output", output, "--variants", "cpu-fp32"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(output.parent.iterdir()) == [of_the_living, output]
    living.communicate("go on\n", timeout=TIMEOUT_S)
    assert living.returncode == 0
    assert list(output.parent.iterdir()) == [output]


def test_killed_export_leaves_the_bundle_that_was_there(bundles: Mapping[str, Bundle], tmp_path: Path) -> None:
    output = tmp_path / "models" / "mood"
    shutil.copytree(bundles["distilbert-two-labels"].folder, output)
    interrupt(paused_export(output), signal.SIGKILL)
    [bundle] = find_bundles(tmp_path / "models")
    assert bundle.manifest.architecture.family == "distilbert"
    for variant in bundle.manifest.variants:
        bundle.verify_file(variant.graph)


@pytest.mark.torch
def test_export_does_not_import_torch(tmp_path: Path) -> None:
    program = "import sys, model_export.__main__ as command; command.main(sys.argv[1:]); print('torch' in sys.modules)"
    arguments = ["export", "--checkpoint", str(CHECKPOINTS / "bert-single-label"), "--output", str(tmp_path / "mood")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
