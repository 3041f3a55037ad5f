"""A server that is started again takes over what was measured of its models."""

from pathlib import Path

from tests.conftest import ModelsOf
from tests.support import run_app, serving

TAKEN_OVER = "its speed was measured by an earlier start"


def test_what_one_server_measured_another_takes_over(models_of: ModelsOf, tmp_path: Path) -> None:
    """With one process or several, and a prediction of a file, too."""
    models = models_of({"sentiment": "bert-single-label"})
    cache = {"BERT_TUNING_CACHE": "true", "BERT_TUNING_CACHE_DIR": str(tmp_path / "cache")}
    with serving(models, **cache) as first:
        assert first.stop() == 0
        assert TAKEN_OVER not in first.log
    with serving(models, "--workers", "2", **cache) as second:
        answer = second.post("/v1/classify", {"inputs": ["a film"]})
        assert answer.status == 200
        assert second.stop() == 0
        assert TAKEN_OVER in second.log
    (tmp_path / "rows.txt").write_text("a film\n")
    arguments = (
        "--model",
        str(models / "sentiment"),
        "--input",
        str(tmp_path / "rows.txt"),
        "--output",
        "-",
        "--output-format",
        "jsonl",
    )
    third = run_app("predict", *arguments, "--batch-tokens", "4096", **cache)
    assert third.returncode == 0
    assert TAKEN_OVER in third.stderr
    off = run_app("predict", *arguments, "--batch-tokens", "4096", "--no-tuning-cache", **cache)
    assert off.returncode == 0
    assert TAKEN_OVER not in off.stderr
    assert off.stdout == third.stdout
