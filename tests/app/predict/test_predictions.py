"""Rows of each task and form, from the command line to the files, in this process."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import load_bundle
from app.predict.columns import Columns
from app.predict.command import predict
from app.predict.pipeline import MAX_CHUNK_ROWS
from app.predict.prediction import Part, Predictor
from app.predict.rows import BadRow, Row
from app.tasks import TASKS
from app.tasks.catalog import load_model
from app.tasks.inputs import as_list
from tests.conftest import BundleOf, ModelsOf
from tests.support import BATCH_TOKENS, serving

TASK_BUNDLES = {
    "classify": "bert-single-label",
    "zero-shot": "bert-nli",
    "rerank": "roberta-rerank",
    "fill-mask": "bert-fill-mask",
    "next-sentence": "bert-next-sentence",
    "entities": "bert-entities",
    "answer": "bert-answer",
    "embed": "bert-embed",
    "similarity": "bert-embed",
    "explain": "bert-nli",
}


@pytest.fixture(autouse=True)
def _quiet_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Run in an empty folder, measure nothing, and have this test read the log."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.predict.command.configure", lambda *_: None)
    monkeypatch.setenv("BERT_BATCH_TOKENS", BATCH_TOKENS)
    monkeypatch.setenv("BERT_THREADS", "1")


@pytest.fixture
def model(bundle_of: BundleOf) -> str:
    return str(bundle_of("bert-single-label"))


def lines(name: str) -> list[Any]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def table(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_rows_get_the_predictions_that_callers_of_the_server_get(bundle_of: BundleOf, models_of: ModelsOf) -> None:
    models = models_of({bundle: bundle for bundle in TASK_BUNDLES.values()})
    assert TASK_BUNDLES.keys() == TASKS.keys()
    requests = {
        task: TASKS[task].example(load_model(load_bundle(models / name))) for task, name in TASK_BUNDLES.items()
    }
    expected = {}
    with serving(models, "--threads", "1") as server:
        for task, request in requests.items():
            # Several, so that a batch has them in company.
            request["inputs"] = as_list(request["inputs"]) * 3
            answer = server.post(f"/v1/{task}", request)
            expected[task] = answer.json["predictions"]
    for task, request in requests.items():
        rows = [{"text": one} if isinstance(one, str) else one for one in request["inputs"]]
        Path(f"{task}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        options = ["--task", task, "--parameters", json.dumps(request.get("parameters", {}))]
        files = ["--input", f"{task}.jsonl", "--output", f"{task}.out.jsonl"]
        assert predict(["--model", str(models / TASK_BUNDLES[task]), *options, *files]) == 0
        assert [line["prediction"] for line in lines(f"{task}.out.jsonl")] == expected[task], task


def test_a_table_has_what_was_kept_and_the_best_prediction(model: str) -> None:
    Path("in.csv").write_text('id,text,label\n1,good,a\n2,"two\nlines",b\n3,"a\rreturn",c\n', newline="")
    common = ["--model", model, "--input", "in.csv"]
    assert predict([*common, "--output", "out.jsonl"]) == 0
    assert predict([*common, "--output", "out.csv"]) == 0
    best = [line["prediction"][0] for line in lines("out.jsonl")]
    assert [list(row) for row in table("out.csv")] == [
        ["id", "text", "label", "prediction_label", "prediction_score"]
    ] * 3
    assert [row["text"] for row in table("out.csv")] == ["good", "two\nlines", "a\rreturn"]
    assert [(row["prediction_label"], float(row["prediction_score"])) for row in table("out.csv")] == [
        (one["label"], one["score"]) for one in best
    ]
    assert predict([*common, "--keep", "id", "--output", "ids.tsv"]) == 0
    assert Path("ids.tsv").read_text().splitlines()[0] == "id\tprediction_label\tprediction_score"
    assert predict([*common, "--keep", "--output", "none.jsonl"]) == 0
    assert [list(line) for line in lines("none.jsonl")] == [["prediction"]] * 3


def test_json_rows_become_a_table_with_the_columns_of_the_first(model: str) -> None:
    Path("in.jsonl").write_text(
        '{"id": 1, "tags": ["a", "b"], "text": "x", "ok": true}\n{"text": "y"}\n{"text": "z", "new": 1}\n'
    )
    assert predict(["--model", model, "--input", "in.jsonl", "--output", "out.csv"]) == 3
    first, second = table("out.csv")
    assert (first["id"], first["tags"], first["ok"]) == ("1", '["a","b"]', "true")
    assert (second["id"], second["text"]) == ("", "y")
    [bad] = lines("out.bad.jsonl")
    assert bad["error"] == "has 'new', which the first row has not; name the columns to copy with --keep"


def test_what_has_no_best_prediction_is_json_in_a_table(bundle_of: BundleOf) -> None:
    Path("in.csv").write_text("id,text\n1,a\n")
    assert predict(["--model", str(bundle_of("bert-embed")), "--input", "in.csv", "--output", "out.csv"]) == 0
    [row] = table("out.csv")
    assert list(row) == ["id", "text", "prediction"]
    assert len(json.loads(row["prediction"])) > 10


def test_an_input_without_rows_makes_an_output_without_rows(model: str) -> None:
    Path("in.csv").write_text("id,text\n")
    assert predict(["--model", model, "--input", "in.csv", "--output", "out.csv"]) == 0
    assert Path("out.csv").read_text() == "id,text,prediction_label,prediction_score\n"
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv", "out.csv"]


def test_pairs_are_read_from_two_columns(model: str) -> None:
    Path("in.csv").write_text("premise,hypothesis\na b,c\na b,\n")
    columns = ["--column", "premise", "hypothesis"]
    assert predict(["--model", model, "--input", "in.csv", *columns, "--output", "out.jsonl"]) == 0
    Path("in.jsonl").write_text(
        '{"text": "a b", "text_pair": "c"}\n{"text": "a b"}\n{"text": "a b", "text_pair": null}\n'
    )
    assert predict(["--model", model, "--input", "in.jsonl", "--output", "same.jsonl"]) == 0
    pair, alone = (line["prediction"] for line in lines("out.jsonl"))
    assert [line["prediction"] for line in lines("same.jsonl")] == [pair, alone, alone]
    assert pair != alone


def test_bad_rows_are_kept_apart_with_their_reasons(model: str, caplog: pytest.LogCaptureFixture) -> None:
    Path("in.jsonl").write_text(
        '{"id": 1, "text": "good"}\n{"id": 2, "text": ""}\n{"id": 3}\n{"id": 4, "text": 5}\n{x\n{"id": 6, "text": "last"}\n'
    )
    assert predict(["--model", model, "--input", "in.jsonl", "--output", "out.jsonl"]) == 3
    assert [line["id"] for line in lines("out.jsonl")] == [1, 6]
    assert lines("out.bad.jsonl") == [
        {"row": 2, "line": 2, "error": "text: is an empty string; send some text", "content": {"id": 2, "text": ""}},
        {"row": 3, "line": 3, "error": "text: is missing", "content": {"id": 3}},
        {"row": 4, "line": 4, "error": "text: input should be a valid string", "content": {"id": 4, "text": 5}},
        {"row": 5, "line": 5, "error": "is not JSON: key must be a string at column 2", "content": "{x"},
    ]
    assert "4 rows are bad and have no prediction: out.bad.jsonl" in caplog.text


def test_rows_that_are_too_much_together_are_predicted_apart(bundle_of: BundleOf) -> None:
    # Each of these makes as many windows as a request may have.
    Path("in.jsonl").write_text(
        f"{json.dumps({'text': 'word ' * 4_000})}\n" * 3 + f"{json.dumps({'text': 'word ' * 40_000})}\n"
    )
    options = ["--model", str(bundle_of("bert-entities")), "--parameters", '{"stride": 30}', "--keep"]
    assert predict([*options, "--input", "in.jsonl", "--output", "out.jsonl"]) == 3
    assert len(lines("out.jsonl")) == 3
    [bad] = lines("out.bad.jsonl")
    assert bad["row"] == 4
    assert "windows; at most 4096 are allowed" in bad["error"]


@pytest.fixture
def predictor(bundle_of: BundleOf) -> Callable[..., Predictor]:
    def make(task: str, **parameters: Any) -> Predictor:
        handler = TASKS[task]
        model = load_model(load_bundle(bundle_of(TASK_BUNDLES[task])))
        return Predictor(model, handler, Columns(handler, None, None), parameters)

    return make


def test_rows_whose_answers_are_large_are_few_at_once(predictor: Callable[..., Predictor]) -> None:
    assert predictor("classify").max_rows > MAX_CHUNK_ROWS
    few = predictor("fill-mask", top_k=100).max_rows
    assert 1 <= few < predictor("fill-mask").max_rows < MAX_CHUNK_ROWS


def test_rows_with_valid_inputs_are_tokenized_together(predictor: Callable[..., Predictor]) -> None:
    rows: list[Row | BadRow] = [Row(i, i, {"text": "" if i % 2 else "good"}) for i in range(20)]
    rows += [BadRow(20, 20, "is bad", ""), Row(21, 21, {})]
    done = predictor("classify").prepare(rows)
    [part] = [one for one in done if isinstance(one, Part)]
    assert [row.number for row in part.rows] == list(range(0, 20, 2))
    assert sorted(one.number for one in done if isinstance(one, BadRow)) == [*range(1, 20, 2), 20, 21]


def test_compressed_files_and_stdout_are_what_plain_files_are(
    model: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    texts = [f"line {i}" for i in range(50)]
    Path("in.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    assert predict(["--model", model, "--input", "in.txt.gz", "--output", "out.jsonl"]) == 0
    assert [line["text"] for line in lines("out.jsonl")] == texts
    options = ["--output", "-", "--output-format", "jsonl"]
    assert predict(["--model", model, "--input", "in.txt.gz", *options]) == 0
    assert capfdbinary.readouterr().out == Path("out.jsonl").read_bytes()


def test_long_texts_are_cut_and_counted(model: str, caplog: pytest.LogCaptureFixture) -> None:
    Path("in.txt").write_text("word " * 2000 + "\nshort\n")
    common = ["--model", model, "--input", "in.txt"]
    assert predict([*common, "--output", "out.jsonl"]) == 0
    assert "1 were cut to 40 tokens" in caplog.text
    assert predict([*common, "--parameters", '{"truncation": false}', "--output", "whole.jsonl"]) == 3
    [bad] = lines("whole.bad.jsonl")
    assert bad["error"] == "text has more than 40 tokens, the most this model takes. Shorten it."


def test_an_output_is_replaced_only_if_asked_to(model: str) -> None:
    Path("in.txt").write_text("new\n")
    Path("out.jsonl").write_text("old\n")
    Path("out.bad.jsonl").write_text("old\n")
    common = ["--model", model, "--input", "in.txt", "--output", "out.jsonl"]
    assert predict(common) == 2
    assert predict([*common, "--overwrite"]) == 0
    assert [line["text"] for line in lines("out.jsonl")] == ["new"]
    assert sorted(path.name for path in Path().iterdir()) == ["in.txt", "out.jsonl"]
