"""What the command line of `predict` refuses, before it loads a model."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from app.predict.command import predict
from tests.conftest import BundleOf


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "out.jsonl", "--column", "nope"], "has no column 'nope'; its columns are 'id', 'text'."),
        (["--output", "out.jsonl", "--keep", "nope"], "has no column 'nope'; its columns are 'id', 'text'."),
        (["--output", "out.jsonl", "--column", "id", "text", "id"], "classify takes text, or text and text_pair"),
        (["--output", "out.jsonl", "--task", "entities"], "does not do entities; it does classify"),
        (["--output", "out.jsonl", "--parameters", "{"], "--parameters is not JSON"),
        (["--output", "out.jsonl", "--parameters", "[]"], "--parameters is no JSON object"),
        (["--output", "out.jsonl", "--parameters", '{"topk": 1}'], "did you mean top_k?"),
        (["--output", "out.parquet"], "out.parquet does not tell its format by its name. Say it with --output-format"),
        (["--output", "out.jsonl", "--input", "in"], "in does not tell its format by its name. Say it with --input-format"),
        (["--output", "out.jsonl", "--input", "missing.csv"], "missing.csv: No such file or directory."),
        (["--output", "out.jsonl", "--input", "taken.csv"], "has a column 'prediction' itself"),
        (["--output", "out.jsonl", "--encoding", "utf-99"], "--encoding: there is no utf-99"),
        (["--output", "out.jsonl", "--parameters", "[" * 10_000], "--parameters is not JSON"),
        (["--output", "out.jsonl", "--parameters", '{"\udcff": 1}'], "--parameters is not JSON"),
        (["--output", "out.jsonl", "--column", "\udcff"], "--column, --keep or --delimiter is not UTF-8."),
        (["--output", "out.jsonl", "--input", "loop.csv"], "loop.csv: Too many levels of symbolic links."),
        (["--output", "out.jsonl", "--threads", "many"], "--threads (BERT_THREADS): "),
        (["--output", "in.csv"], "name one file twice"),
        (["--output", "there", "--output-format", "csv", "--input", "there.part", "--input-format", "csv"], "name one file twice"),
        (["--output", "out.csv", "--bad-rows", "out.csv.progress"], "name one file twice"),
        (["--output", "folder.csv", "--overwrite"], "folder.csv is no file"),
        (["--output", "there.csv"], "there.csv is there already."),
        (["--output", "out.csv", "--bad-rows", "there.csv"], "there.csv is there already."),
        (["--output", "in.csv", "--input", "in.csv.part", "--input-format", "csv"], "name one file twice"),
        (["--output", "/"], "/ is no file, and cannot be replaced by one."),
        (["--output", "/dev/null", "--output-format", "csv", "--overwrite"], "/dev/null is no file"),
        (["--output", "out.csv", "--bad-rows", "/dev/null", "--overwrite"], "/dev/null is no file"),
        (["--output", "-", "--output-format", "csv", "--bad-rows", "there.csv"], "there.csv is there already."),
        (["--output", "out.csv.gz", "--output-format", "csv"], "an output is not compressed"),
        (["--output", "in.csv/out.csv"], "in.csv/out.csv: Not a directory."),
        (["--output", "out.jsonl", "--model", "."], "is not a bundle"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_and_leaves_nothing(
    arguments: Sequence[str],
    told: str,
    bundle_of: BundleOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"in.csv": "id,text\n1,a\n", "there.csv": "mine\n", "taken.csv": "prediction,text\n1,a\n", "in": "a\n"}
    Path("folder.csv").mkdir()
    for name, content in contents.items():
        Path(name).write_text(content)
    Path("loop.csv").symlink_to("loop.csv")
    model = str(bundle_of("bert-single-label"))
    assert predict(["--model", model, "--input", "in.csv", *arguments]) in (1, 2)
    assert told in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == contents
