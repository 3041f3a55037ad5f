"""Random damage to bundles, with hashes made again: a named error, or answers as before; never another error, nor a wait."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from app.bundle.files import Bundle, describe_file, load_bundle
from app.bundle.sequences import MaskScores, SequenceResult
from app.engine.golden import golden_sequences, replay_golden
from app.errors import BundleError
from app.runtime.choice import open_runner
from app.tasks import TASKS
from app.tasks.catalog import check_models, load_model
from tests.conftest import BundleOf
from tests.support import change_manifest

NAMES: Final = (
    "bert-single-label",
    "bert-entities",
    "bert-fill-mask",
    "roberta-answer",
    "bert-embed",
    "bert-next-sentence",
)
FILES: Final = ("tokenizer.json", "golden.json", "cpu-fp32.onnx")
DAMAGES: Final = 60


def load(folder: Path) -> tuple[Bundle, list[SequenceResult]]:
    """Do what a start does, but for measuring, and return the answers to the golden inputs."""
    bundle = load_bundle(folder)
    check_models([bundle], TASKS, {})
    load_model(bundle)
    runner = open_runner(bundle, device="cpu", precision="auto", threads=[1])
    replay_golden(bundle, runner.variant_name, runner.run)
    return bundle, runner.run(golden_sequences(bundle))


def hash_again(folder: Path, **changes: Any) -> None:
    entries = {name: describe_file(folder / f"{name}.json").model_dump() for name in ("tokenizer", "golden")}
    [variant] = json.loads((folder / "manifest.json").read_text())["variants"]
    variant["graph"] = describe_file(folder / "cpu-fp32.onnx").model_dump()
    change_manifest(folder, **entries | {"variants": [variant]} | changes)


def damage(choice: random.Random, path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    at = choice.randrange(len(content))
    match choice.choice(["flip", "cut", "garble", "swap"]):
        case "flip":
            content[at] ^= 1 << choice.randrange(8)
        case "cut":
            del content[at:]
        case "garble":
            content[at : at + 16] = choice.randbytes(16)
        case "swap":
            content = bytearray(other.read_bytes())
    path.write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_a_named_error_or_harmless(tmp_path: Path, bundle_of: BundleOf, name: str) -> None:
    choice = random.Random(name)
    _, expected = load(bundle_of(name))
    refused = 0
    for number in range(DAMAGES // len(NAMES)):
        folder = shutil.copytree(bundle_of(name), tmp_path / str(number))
        file = choice.choice(FILES)
        damage(choice, folder / file, bundle_of(choice.choice(NAMES)) / file)
        hash_again(folder)
        try:
            _, got = load(folder)
        except BundleError as error:
            assert str(folder) in str(error)  # noqa: PT017 - it may be none
            refused += 1
            continue
        for one, other in zip(got, expected, strict=True):
            a, b = (result.scores if isinstance(result, MaskScores) else result for result in (one, other))
            # The tolerance of the replay of golden answers, for both: damage below it is none.
            assert np.abs(a - b).max() < 4e-4
    assert refused


def with_labels(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        hash_again(folder, labels=change(json.loads((folder / "manifest.json").read_text())["labels"]))

    return damage


def golden_case(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "golden.json"
        golden = json.loads(path.read_text())
        golden["cases"][2] |= changes
        path.write_text(json.dumps(golden))
        hash_again(folder)

    return damage


def larger_ids(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["neverseen"] = 400
    path.write_text(json.dumps(tokenizer))
    hash_again(folder)


def broken_pattern(folder: Path) -> None:
    path = folder / "tokenizer.json"
    pattern = {"type": "Replace", "pattern": {"Regex": "(?<!a+"}, "content": ""}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": pattern}))
    hash_again(folder)


@pytest.mark.parametrize("name", ["bert-single-label", "bert-entities"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (with_labels(lambda labels: labels[::-1]), "manifest.json and .*golden.json are not of one model"),
        (with_labels(lambda labels: labels[:-1]), "manifest.json and .*golden.json are not of one model"),
        (with_labels(lambda labels: [*labels, "MORE"]), "manifest.json and .*golden.json are not of one model"),
        (with_labels(lambda _: []), "manifest.json and .*golden.json are not of one model"),
        (lambda folder: hash_again(folder, task="fill-mask"), "golden.json|tokenizer.json"),
        (lambda folder: hash_again(folder, task="embed"), "manifest.json and .*golden.json are not of one model"),
        (lambda folder: hash_again(folder, task="answer"), "manifest.json and .*golden.json are not of one model"),
        (lambda folder: hash_again(folder, task="next-sentence"), "manifest.json and .*golden.json"),
        (lambda folder: hash_again(folder, max_length=41), "cpu-fp32.onnx cannot run .* 41 tokens"),
        (golden_case(logits=None, token_logits=None), "manifest.json and .*golden.json are not of one model"),
        (golden_case(input_ids=[2**40]), "golden case 2"),
        (golden_case(token_type_ids=[0]), "golden case 2"),
        (golden_case(labels=[{"label": "A", "score": 0.5}]), "golden.json are not of one model"),
        (larger_ids, "tokenizer.json has token ids up to 400, but the model has 400 embeddings"),
        (broken_pattern, "tokenizer.json is not a tokenizer that this server can read"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, bundle_of: BundleOf, name: str, damage: Callable[[Path], None], says: str
) -> None:
    folder = shutil.copytree(bundle_of(name), tmp_path / name)
    damage(folder)
    with pytest.raises(BundleError, match=says):
        load(folder)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_another_way_to_score_is_refused(tmp_path: Path, bundle_of: BundleOf, problem_type: str) -> None:
    folder = shutil.copytree(bundle_of("bert-single-label"), tmp_path / "sentiment")
    hash_again(folder, problem_type=problem_type)
    with pytest.raises(BundleError, match="other labels or scores than at the export"):
        load(folder)
