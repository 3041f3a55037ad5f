"""Which model a request means, and models whose tokenizer is not that of their golden answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import describe_file, find_bundles, load_bundle
from app.bundle.manifest import Task
from app.errors import BundleError, NotFound, StartupError, ValidationFailed
from app.tasks import TASKS
from app.tasks.catalog import Catalog, check_models, load_model
from tests.conftest import BundleOf
from tests.support import change_manifest


@pytest.fixture(scope="module")
def catalog(shared_models: Path) -> Catalog:
    return Catalog(load_model(bundle) for bundle in find_bundles(shared_models))


def test_models_are_found_by_name(catalog: Catalog) -> None:
    assert [model.name for model in catalog] == ["masked", "sentiment", "toxicity"]
    assert catalog.get("toxicity").task == "classify"
    assert catalog.for_task(TASKS["classify"], "toxicity").name == "toxicity"


def test_the_only_model_of_a_task_needs_no_name(catalog: Catalog) -> None:
    assert catalog.for_task(TASKS["fill-mask"], None).name == "masked"


@pytest.mark.parametrize(
    ("task", "name", "error", "says"),
    [
        ("classify", None, ValidationFailed, "several models for classify; name one of: sentiment, toxicity"),
        ("classify", "nobody", NotFound, "no such model. This server has: masked, sentiment, toxicity"),
        ("classify", "masked", NotFound, "does fill-mask, not classify. Models for classify: sent"),
        ("classify", "", NotFound, "no such model"),
        ("fill-mask", "sentiment", NotFound, "Models for fill-mask: masked"),
    ],
)
def test_a_wrong_or_ambiguous_model_is_refused(
    catalog: Catalog, task: Task, name: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        catalog.for_task(TASKS[task], name)


def test_a_default_answers_requests_that_name_no_model(shared_models: Path) -> None:
    models = [load_model(bundle) for bundle in find_bundles(shared_models)]
    catalog = Catalog(models, {"classify": "toxicity"})
    assert catalog.for_task(TASKS["classify"], None).name == "toxicity"
    assert catalog.for_task(TASKS["classify"], "sentiment").name == "sentiment"


def test_a_default_of_one_task_answers_for_others_that_it_can_do(bundle_of: BundleOf) -> None:
    models = [load_model(load_bundle(bundle_of(name))) for name in ("bert-embed", "roberta-embed")]
    with pytest.raises(ValidationFailed, match="several models for similarity"):
        Catalog(models).for_task(TASKS["similarity"], None)
    assert Catalog(models, {"embed": "roberta-embed"}).for_task(TASKS["similarity"], None).name == "roberta-embed"
    both = {"embed": "roberta-embed", "similarity": "bert-embed"}
    assert Catalog(models, both).for_task(TASKS["similarity"], None).name == "bert-embed"


@pytest.mark.parametrize(
    ("defaults", "says"),
    [
        (
            [("classify", "nobody")],
            "nobody is not served, or does not do classify. Models for classify: sentiment, toxicity",
        ),
        ([("classify", "masked")], "masked is not served, or does not do classify"),
        ([("clasify", "sentiment")], "no task clasify. Tasks are: .*classify"),
        ([("classify", "sentiment"), ("", "toxicity")], "sentiment and toxicity are both for classify"),
    ],
)
def test_a_default_that_cannot_answer_stops_the_start(
    shared_models: Path, defaults: list[tuple[str, str]], says: str
) -> None:
    with pytest.raises(StartupError, match=says):
        check_models(find_bundles(shared_models), TASKS, defaults)


def test_a_default_without_a_task_is_for_its_own(shared_models: Path) -> None:
    bundles = find_bundles(shared_models)
    by_task = check_models(bundles, TASKS, [("", "toxicity"), ("", "masked")])
    assert by_task == {"classify": "toxicity", "fill-mask": "masked"}


def test_a_default_that_is_not_served_leaves_the_others_serving(shared_models: Path) -> None:
    """A deployment names the model that it is about to serve, which an export may fail to make."""
    assert check_models(find_bundles(shared_models), TASKS, [("", "reviews"), ("", "masked")]) == {
        "fill-mask": "masked"
    }


def test_a_task_without_a_model_is_not_found(shared_models: Path) -> None:
    catalog = Catalog([load_model(load_bundle(shared_models / "masked"))])
    with pytest.raises(NotFound, match="has no model for classify"):
        catalog.for_task(TASKS["classify"], None)
    with pytest.raises(NotFound, match="Models for classify: none"):
        catalog.for_task(TASKS["classify"], "masked")


def no_tokenizer(_: Any) -> Any:
    return {}


def other_vocabulary(tokenizer: Any) -> Any:
    vocabulary = tokenizer["model"]["vocab"]
    return tokenizer | {"model": tokenizer["model"] | {"vocab": {word: 399 - i for word, i in vocabulary.items()}}}


def no_special_tokens(tokenizer: Any) -> Any:
    return tokenizer | {"post_processor": None}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (no_tokenizer, r"tokenizer\.json is not a tokenizer that this server can read"),
        (other_vocabulary, "golden case 0.*Export the model again"),
        (no_special_tokens, "golden case 0.*Export the model again"),
    ],
)
def test_a_tokenizer_with_other_ids_is_refused(
    tmp_path: Path, bundle_of: BundleOf, change: Callable[[Any], Any], says: str
) -> None:
    folder = shutil.copytree(bundle_of("bert-single-label"), tmp_path / "sentiment")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    change_manifest(folder, tokenizer=describe_file(path).model_dump())
    with pytest.raises(BundleError, match=says):
        load_model(load_bundle(folder))
