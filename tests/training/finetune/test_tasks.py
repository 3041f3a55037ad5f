"""Each task is learnt from rows in seconds, exported, and served."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import CHECKPOINTS, serving
from tests.training import toy

pytestmark = pytest.mark.torch

LEARN = ("--num-train-epochs", 8, "--learning-rate", 2e-3, "--batch-size", 16)


def figures(output: Path) -> Any:
    return json.loads((output / "evaluation.json").read_text())


def answer_of(models: Path, path: str, body: Any) -> Any:
    """Serve the models and ask once."""
    with serving(models, "--threads", "1", "--batch-tokens", "1024") as server:
        return server.post(path, body).json["predictions"][0]


def test_reviews_are_classified_and_served(tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]) -> None:
    data, output = toy.write_csv(tmp_path / "reviews.csv", toy.reviews()), tmp_path / "sentiment"
    export = ("--export", tmp_path / "models" / "sentiment")
    told = training("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *LEARN, *export)
    assert "180 rows to learn from, 20 held out." in told
    assert figures(output)["accuracy"] > 0.9
    assert figures(output)["labels"].keys() == {"negative", "positive"}
    names = {path.name for path in output.iterdir()}
    assert {"README.md", "confusion.png", "calibration.png", "loss.png", "model.safetensors"} <= names
    assert [path.name for path in tmp_path.iterdir() if "sentiment." in path.name] == []
    best = answer_of(tmp_path / "models", "/v1/classify", {"inputs": ["it was superb"]})[0]
    assert best["label"] == "positive"


def test_pairs_are_classified_by_both_texts(tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]) -> None:
    chance = random.Random(0)
    words = [chance.choice(toy.PLACES) for _ in range(400)]
    rows = [{"premise": a, "hypothesis": chance.choice((a, b))} for a, b in zip(words[::2], words[1::2], strict=True)]
    rows = [{**row, "same": "yes" if row["premise"] == row["hypothesis"] else "no"} for row in rows]
    data, output = toy.write_jsonl(tmp_path / "pairs.jsonl", rows * 3), tmp_path / "pairs"
    columns = ("--text-column", "premise", "hypothesis", "--label-column", "same", "--eval-data", data)
    training("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *LEARN, *columns)
    assert figures(output)["accuracy"] > 0.9


@pytest.mark.parametrize("form", ["columns", "cells", "lists"])
def test_several_labels_are_learnt(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str], form: str
) -> None:
    chance = random.Random(0)
    rows: list[tuple[str, bool, bool]] = []
    for _ in range(800):
        chosen = [chance.random() < 0.5 for _ in range(2)]
        words = [word for word, is_in in zip(("great", "dull"), chosen, strict=True) if is_in]
        text = " ".join([*words, *chance.choices(toy.FILL, k=4)])
        rows.append((text, chosen[0], chosen[1]))
    if form == "columns":
        data = toy.write_csv(tmp_path / "rows.csv", [{"text": t, "good": int(g), "bad": int(b)} for t, g, b in rows])
        extra: tuple[object, ...] = ("--label-column", "good", "bad")
    else:
        named = [(text, ["good"] * good + ["bad"] * bad) for text, good, bad in rows]
        if form == "cells":
            cells = [{"text": text, "label": ";".join(names)} for text, names in named if names]
            data, extra = toy.write_csv(tmp_path / "rows.csv", cells), ("--label-delimiter", ";")
        else:
            data, extra = toy.write_jsonl(tmp_path / "rows.jsonl", [{"text": t, "label": n} for t, n in named]), ()
    output = tmp_path / "several"
    # With only rows of a label or two, the figures stay as they are for the first epochs.
    weights = ("--class-weights", "balanced", "--early-stopping-patience", 0, "--learning-rate", 1e-3)
    training("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *LEARN, *extra, *weights)
    assert figures(output)["f1_micro"] > 0.9
    assert set(json.loads((output / "config.json").read_text())["label2id"]) == {"good", "bad"}


def test_numbers_are_predicted(tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]) -> None:
    chance = random.Random(0)
    rows = []
    for _ in range(300):
        words = chance.choices(("great", "dull"), k=4)
        rows.append({"text": " ".join(words), "label": words.count("great") / 4})
    data, output = toy.write_csv(tmp_path / "rows.csv", rows * 2), tmp_path / "scores"
    training(
        "finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *LEARN, "--eval-data", data
    )
    assert figures(output)["pearson"] > 0.9
    assert json.loads((output / "config.json").read_text())["problem_type"] == "regression"


@pytest.mark.parametrize("form", ["tokens", "spans"])
def test_entities_are_found_and_served(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str], form: str
) -> None:
    rows = toy.sentences()
    if form == "spans":
        types = {**dict.fromkeys(toy.PEOPLE, "PER"), **dict.fromkeys(toy.PLACES, "LOC")}
        texts = [" ".join(row["tokens"]) for row in rows]
        rows = [
            {
                "text": text,
                "entities": [
                    {"start": text.index(word), "end": text.index(word) + len(word), "label": types[word]}
                    for word in text.split()
                    if word in types
                ],
            }
            for text in texts
        ]
    data, output = toy.write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "names"
    given = ("--eval-data", data, "--export", tmp_path / "models" / "names")
    training("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *LEARN, *given)
    assert figures(output)["f1"] > 0.9
    assert figures(output)["types"].keys() == {"PER", "LOC"}
    found = answer_of(tmp_path / "models", "/v1/entities", {"inputs": ["dora went to kiel"]})
    assert [(one["entity_group"], one["word"]) for one in found] == [("PER", "dora"), ("LOC", "kiel")]


def test_questions_are_answered_and_served(tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]) -> None:
    rows = toy.questions(800)
    articles = {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": row["context"],
                        "qas": [
                            {
                                "id": str(i),
                                "question": row["question"],
                                "answers": [
                                    {"text": text, "answer_start": start}
                                    for text, start in zip(*row["answers"].values(), strict=True)
                                ],
                            }
                        ],
                    }
                    for i, row in enumerate(rows)
                ]
            }
        ]
    }
    data, output = tmp_path / "squad.json", tmp_path / "answers"
    data.write_text(json.dumps(articles))
    given = (
        "--num-train-epochs",
        24,
        "--learning-rate",
        5e-4,
        "--early-stopping-patience",
        0,
        "--export",
        tmp_path / "models" / "answers",
    )
    training("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *LEARN, *given)
    assert figures(output)["f1"] > 0.9
    question = {"question": "who is it ?", "context": "we think bela lives in ulm"}
    assert answer_of(tmp_path / "models", "/v1/answer", {"inputs": [question]})[0]["answer"] == "bela"


@pytest.mark.parametrize("may_be_none", [False, True])
def test_questions_are_evaluated_as_the_server_answers_them(
    tmp_path: Path, training: Callable[..., str], may_be_none: bool
) -> None:
    checkpoint = toy.make_checkpoint(tmp_path / "checkpoint", max_position_embeddings=128)
    chance = random.Random(1)
    rows = [
        {
            "question": " ".join(chance.choices(toy.FILL, k=chance.choice((3, 70)))),  # the server reads 64 tokens
            "context": " ".join(chance.choices(toy.FILL + toy.PEOPLE, k=chance.choice((5, 120)))),  # up to five windows
            "answers": {"text": [], "answer_start": []},
        }
        for _ in range(110)
    ]
    data = toy.write_jsonl(tmp_path / "rows.jsonl", [*toy.questions(40), *rows[:80]])
    asked = toy.write_jsonl(tmp_path / "asked.jsonl", rows[80:])
    given = (
        "--data",
        data,
        "--checkpoint",
        checkpoint,
        "--max-steps",
        8,
        "--learning-rate",
        1e-3,
        "--doc-stride",
        16,
    )
    export = ("--export", tmp_path / "models" / "answers", "--variants", "cpu-fp32")
    training("finetune", *given, "--output", tmp_path / "first", "--eval-data", asked, *export)
    questions = [{"question": row["question"], "context": row["context"]} for row in rows[80:]]
    parameters = {"handle_impossible_answer": may_be_none, "stride": 16}
    with serving(tmp_path / "models", "--threads", "1", "--batch-tokens", "1024") as server:
        answers = server.post("/v1/answer", {"inputs": questions, "parameters": parameters}).json["predictions"]
    for row, [best] in zip(rows[80:], answers, strict=True):
        row["answers"] = (
            {"text": [best["answer"]], "answer_start": [best["start"]]}
            if best["answer"]
            else {"text": [], "answer_start": []}
        )
    assert ("" in {best["answer"] for [best] in answers}) == may_be_none
    answered = toy.write_jsonl(tmp_path / "answered.jsonl", rows[80:])
    training("finetune", *given, "--output", tmp_path / "second", "--eval-data", answered)
    report = (tmp_path / "second" / "README.md").read_text()
    assert figures(tmp_path / "second")["exact_match"] == 1 if may_be_none else "without it F1 is 1.000" in report


@pytest.mark.parametrize("task", ["classify", "entities", "answer"])
def test_held_out_rows_are_written_as_they_are_read(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str], task: str
) -> None:
    rows = {"classify": toy.reviews(40), "entities": toy.sentences(40), "answer": toy.questions(40)}[task]
    data = toy.write_jsonl(tmp_path / "rows.jsonl", rows)
    given = ("--checkpoint", toy_checkpoint, "--max-steps", 1)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    training("finetune", "--data", data, "--output", tmp_path / "a", "--save-eval-data", first, *given)
    again = ("--eval-data", first, "--save-eval-data", second)
    training("finetune", "--data", data, "--output", tmp_path / "b", *again, *given)
    assert first.read_text() == second.read_text()
    assert 0 < len(first.read_text().splitlines()) < 40


def test_one_label_alone_is_measured_by_the_rows_that_have_it(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str]
) -> None:
    rows = [
        {"text": row["text"], "label": ["toxic"] * (row["label"] == "negative" and i % 4 == 1)}
        for i, row in enumerate(toy.reviews(200))
    ]
    data, output = toy.write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "toxic"
    given = ("--checkpoint", toy_checkpoint, "--output", output, "--max-steps", 1, "--eval-data", data)
    training("finetune", "--data", data, *given)
    assert figures(output)["labels"]["toxic"]["rows"] == 50


@pytest.mark.parametrize(
    ("tags", "types"),
    [
        (["PER", "PER", "O", "LOC"], ["anna bela PER", "ulm LOC"]),
        (["U-PER", "U-PER", "O", "B-LOC"], ["anna PER", "bela PER", "ulm LOC"]),
        (["B-PER", "L-PER", "O", "S-LOC"], ["anna bela PER", "ulm LOC"]),
        (["I-PER", "B-PER", "O", "I-LOC"], ["anna PER", "bela PER", "ulm LOC"]),
    ],
)
def test_tags_of_every_scheme_are_read(tmp_path: Path, tags: list[str], types: list[str]) -> None:
    datasets = pytest.importorskip("datasets")
    from training.finetune.entities import Entities
    from training.flags import Reading

    rows = datasets.Dataset.from_list([{"tokens": ["anna", "bela", "in", "ulm"], "ner_tags": tags}])
    [row] = Entities.read(Reading("utf-8", None, False, None, None, None), rows, tmp_path)
    assert [f"{row['text'][span['start'] : span['end']]} {span['type']}" for span in row["spans"]] == types


@pytest.mark.parametrize("task", ["classify", "entities"])
def test_a_head_goes_on_if_it_is_for_the_same_labels(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str], task: str
) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    rows, old, new = {
        "classify": (toy.reviews(40), "positive", "pleased"),
        "entities": (toy.sentences(40), "B-PER", "B-MAN"),
    }[task]
    data = toy.write_jsonl(tmp_path / "rows.jsonl", rows)
    others = tmp_path / "others.jsonl"
    others.write_text(data.read_text().replace(old, new))
    told: dict[str, str] = {}
    heads: dict[str, Any] = {}
    for name, start, source in (("first", toy_checkpoint, data), ("same", "first", data), ("other", "first", others)):
        given = ("--data", source, "--checkpoint", tmp_path / start, "--output", tmp_path / name)
        told[name] = training("finetune", *given, "--max-steps", 1, "--learning-rate", 1e-6, "--seed", len(told))
        heads[name] = load_file(tmp_path / name / "model.safetensors")["classifier.weight"]
    assert torch.allclose(heads["same"], heads["first"], atol=1e-4)
    assert not torch.allclose(heads["other"], heads["first"], atol=1e-2)
    assert ["is for other labels: a new one is learnt" in one for one in told.values()] == [False, False, True]


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "camembert", "xlm-roberta"])
def test_the_output_layer_of_every_family_is_found(name: str) -> None:
    from training.finetune.kind import load_model, output_layer

    transformers = pytest.importorskip("transformers")
    checkpoint = str(next(CHECKPOINTS.glob(f"{name}-*label*"), CHECKPOINTS / f"{name}-regression"))
    names = [f"label {i}" for i in range(transformers.AutoConfig.from_pretrained(checkpoint).num_labels)]
    auto = transformers.AutoModelForSequenceClassification
    model, other = (load_model(auto, checkpoint, names, None, are_known=known) for known in (True, False))
    assert output_layer(model).out_features == len(names)
    old, new = model.state_dict(), other.state_dict()
    [changed] = {key.rpartition(".")[0] for key in old if (old[key] != new[key]).any()}
    assert model.get_submodule(changed) is output_layer(model)


@pytest.mark.parametrize("form", ["one", "several"])
def test_labels_without_held_out_rows_are_told_and_pull_no_figure(
    tmp_path: Path, toy_checkpoint: Path, training: Callable[..., str], form: str
) -> None:
    rows: list[dict[str, Any]] = [*toy.reviews(40), *({"text": f"so {word}", "label": "mixed"} for word in toy.FILL)]
    if form == "several":
        rows = [{"text": row["text"], "label": [row["label"]]} for row in rows]
    data, output = toy.write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "output"
    given = ("--eval-data", toy.write_jsonl(tmp_path / "held-out.jsonl", rows[:40]), "--max-steps", 1)
    told = training("finetune", "--data", data, "--checkpoint", toy_checkpoint, "--output", output, *given)
    assert "1 of 3 labels are not evaluated, as no held-out row has them: mixed." in told
    assert "which `f1_macro` leaves out: mixed." in (output / "README.md").read_text()
    by_label = figures(output)["labels"]
    assert by_label.keys() == {"negative", "positive"}
    assert figures(output)["f1_macro"] == pytest.approx(sum(row["f1"] for row in by_label.values()) / 2)


@pytest.mark.parametrize("start", ["bert-entities", "bert-nli", "distilbert-one-label"])
def test_a_head_of_another_task_is_replaced(tmp_path: Path, training: Callable[..., str], start: str) -> None:
    data = toy.write_jsonl(tmp_path / "rows.jsonl", toy.questions(40))
    given = ("--checkpoint", CHECKPOINTS / start, "--output", tmp_path / "output", "--max-steps", 1)
    training("finetune", "--data", data, *given)
    assert json.loads((tmp_path / "output" / "config.json").read_text()).get("problem_type") is None


def test_columns_that_the_first_row_lacks_are_read(tmp_path: Path) -> None:
    from training.flags import Reading
    from training.rows import read_rows

    data = toy.write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": "b", "text_pair": "c"}])
    rows = read_rows(data, Reading("utf-8", None, False, None, None, None)).train
    assert list(rows["text_pair"]) == [None, "c"]
