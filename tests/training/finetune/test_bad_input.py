"""What cannot be learnt from is refused before minutes are spent, and the message says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training import toy

pytestmark = pytest.mark.torch

Refused = Callable[..., str]
GOOD = toy.reviews(40)
NO_TEXT = {"text": " ", "label": "positive"}
NO_LABEL = {"text": "it was fine", "label": ""}
ANSWER = {"question": "who", "context": "anna lives in ulm", "answers": {"text": ["bela"], "answer_start": [0]}}
SPANS = [{"start": 0, "end": 4, "label": "PER"}, {"start": 2, "end": 6, "label": "LOC"}]

CSV: dict[str, tuple[list[dict[str, Any]], tuple[str, ...], str]] = {
    "no such column": (GOOD, ("--text-column", "body"), "has no column body; it has text, label. --text-column names others"),
    "no label column": ([{"text": "a"}], (), "has no column label; it has text"),
    "one label": ([row for row in GOOD if row["label"] == "positive"], (), "all rows have the label 'positive'"),
    "a label once": ([*GOOD, {"text": "so so", "label": "mixed"}], (), "1 of 3 labels occur only once (mixed)"),
    "empty texts": ([*GOOD, NO_TEXT, NO_TEXT], (), "2 have an empty text (rows 41, 42). Mend them, or --skip-bad-rows"),
    "no label in a row": ([*GOOD, NO_LABEL], (), "1 have no label (row 41)"),
    "no numbers": (GOOD, ("--problem-type", "regression"), "a label is no number: 'positive'"),
    "the same number": ([{"text": "a", "label": "0.5"}] * 9, (), "all labels are 0.5"),
    "many numbers": ([{"text": f"a {i}", "label": str(i)} for i in range(60)], (), "60 different numbers: say whether"),
    "too few texts": ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 4, (), "2 different texts are too few"),
    "an unknown encoding": (GOOD, ("--encoding", "utf-9"), "there is no encoding 'utf-9'"),
    "weights for numbers": (
        [{"text": f"a {i}", "label": str(i / 3)} for i in range(30)],
        ("--class-weights", "balanced"),
        "--class-weights are for labels",
    ),
    "letters as labels": (GOOD, ("--problem-type", "multi_label_classification"), "--label-delimiter parts"),
    "an odd batch": (GOOD, ("--batch-size", "30", "--gradient-accumulation-steps", "4"), "must be a multiple"),
    "another language": ([{"text": f"Ж{i} Щ Ю", "label": "xy"[i % 2]} for i in range(40)], (), "does not fit these texts"),
}  # fmt: skip
JSONL: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an answer elsewhere": ([ANSWER] * 5, "5 have an answer that is not at its answer_start"),
    "an answer before its context": (
        [{**ANSWER, "answers": {"text": ["ulm"], "answer_start": [-3]}}] * 5,
        "5 have an answer that is not at its answer_start",
    ),
    "an answer without its place": (
        [{**ANSWER, "answers": {"text": ["ulm"], "answer_start": []}}] * 5,
        "5 have answers without as many text as answer_start",
    ),
    "one answer as text": (
        [{**ANSWER, "answers": {"text": "ulm", "answer_start": 14}}] * 5,
        "5 have answers without as many text as answer_start",
    ),
    "an answer at no number": (
        [{**ANSWER, "answers": {"text": ["ulm"], "answer_start": ["14"]}}] * 5,
        "5 have answers that are no text, or an answer_start that is no whole number",
    ),
    "a context without a token": (
        [{**ANSWER, "context": "\u200b" * i, "answers": {"text": [], "answer_start": []}} for i in range(1, 31)],
        "a context has no token",
    ),
    "overlapping entities": ([{"text": "anna ulm", "entities": SPANS}] * 5, "5 have entities that overlap"),
    "no entity": ([{"text": f"anna {i}", "entities": []} for i in range(30)], "no row has an entity"),
    "tags without tokens": ([{"tokens": ["a", "b"], "ner_tags": ["O"]}] * 5, "5 have more tokens than tags, or fewer"),
}


@pytest.fixture
def finetune_refused(tmp_path: Path, toy_checkpoint: Path, refused: Refused) -> Refused:
    def finetune_refused(data: Path, *options: object) -> str:
        output = tmp_path / "output"
        told = refused("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *options)
        assert not output.exists()
        return told

    return finetune_refused


@pytest.mark.parametrize("case", CSV)
def test_a_csv_is_refused(tmp_path: Path, finetune_refused: Refused, case: str) -> None:
    rows, options, message = CSV[case]
    assert message in finetune_refused(toy.write_csv(tmp_path / "rows.csv", rows), *options)


@pytest.mark.parametrize("case", JSONL)
def test_json_lines_are_refused(tmp_path: Path, finetune_refused: Refused, case: str) -> None:
    rows, message = JSONL[case]
    assert message in finetune_refused(toy.write_jsonl(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "text,label\nnaïve,1\n".encode("cp1252"), "is not utf-8: say what it is with --encoding"),
        ("rows.csv", b"", "begins with no header"),
        ("rows.csv", b"text,label\n", "has no rows"),
        ("rows.csv", b"text,label\nmy film, the film,good\n", "line 2 has 3 cells, and the header 2"),
        ("rows.csv", b"text,label,label\na,b,c\n", "begins with no header of different names"),
        ("rows.json", b'[{"paragraphs": [{"qas": []}]}, {"paragraphs": [{"qas": [{}]}]}]', "lacks"),
        ("rows.csv", b"text,label\na,b\na,b,c\n", "line 3 has 3 cells, and the header 2"),
        ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text"\n', "line 2 is no JSON"),
        ("rows.jsonl", b"[1]\n", "line 1 is no object"),
        ("rows.json", b'{"text": 1}', "is no list of objects"),
        ("rows.txt", b"a", "ends in none of .csv"),
    ],
)
def test_a_broken_file_is_refused(
    tmp_path: Path, finetune_refused: Refused, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in finetune_refused(tmp_path / name)


def test_bad_rows_are_left_out_if_so_asked(tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]) -> None:
    data = toy.write_csv(tmp_path / "rows.csv", [NO_TEXT, *GOOD, NO_LABEL])
    given = ("--checkpoint", toy_checkpoint, "--output", tmp_path / "output", "--max-steps", 1)
    told = training("finetune", "--data", data, *given, "--skip-bad-rows")
    assert "1 have an empty text (row 1); 1 have no label (row 42)" in told


def test_texts_that_are_cut_are_counted(tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]) -> None:
    data = toy.write_csv(tmp_path / "rows.csv", [*GOOD, {"text": "so " * 30, "label": "positive"}])
    given = ("--checkpoint", toy_checkpoint, "--output", tmp_path / "output", "--max-steps", 1, "--max-length", 20)
    told = training("finetune", "--data", data, *given, "--eval-data", data)
    assert "1 of 41 (2.4%) texts have more than 20 tokens and lose their end; --max-length 32 cuts none." in told


def test_a_checkpoint_must_be_there_and_fit_its_tokenizer(
    tmp_path: Path, toy_checkpoint: Path, refused: Refused
) -> None:
    data = toy.write_csv(tmp_path / "rows.csv", GOOD)
    given = ("--data", data, "--output", tmp_path / "output")
    (tmp_path / "empty").mkdir()
    assert "cannot be read" in refused("finetune", "--checkpoint", tmp_path / "empty", *given)
    assert "is no folder" in refused("finetune", "--checkpoint", tmp_path / "none", *given)
    small = toy.make_checkpoint(tmp_path / "small", vocab_size=50)
    assert "has 96 tokens, and the network embeddings for 50" in refused("finetune", "--checkpoint", small, *given)
    config = json.loads((toy_checkpoint / "config.json").read_text()) | {"model_type": "gpt2"}
    for file in toy_checkpoint.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    (small / "config.json").write_text(json.dumps(config))
    assert "is of the family gpt2; known are bert" in refused("finetune", "--checkpoint", small, *given)


def test_a_text_is_never_on_both_sides(tmp_path: Path, toy_checkpoint: Path) -> None:
    from training.finetune.split import split

    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(toy.reviews(60) * 3)
    train, held_out = split(rows, list(rows["text"]), list(rows["label"]), 0.2, seed=0)
    assert len(train) + len(held_out) == 180
    assert not set(train["text"]) & set(held_out["text"])
    assert abs(list(held_out["label"]).count("positive") / len(held_out) - 0.5) < 0.1
