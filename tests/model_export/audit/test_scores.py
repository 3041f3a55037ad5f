"""Scores are those that the server answers, and a model that prefers a group shows it."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle import BundleError
from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Manifest
from app.tasks.classify import default_function
from app.tasks.scores import FUNCTIONS
from model_export.audit.gaps import gaps_of
from model_export.audit.scores import Model, Scored, _scores, score_all
from model_export.audit.templates import DEFAULT_TEMPLATES, Dimension, read_templates
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.conftest import BundleOf
from tests.model_export.support import edit_tensors
from tests.support import DEMO_CHECKPOINT, ServerProcess, change_manifest

PEOPLE = Dimension(
    name="people",
    about=None,
    query="Who works at the hospital?",
    frames=(
        "The {word} drank very good wine in Paris.",
        "Сегодня {word} 안녕하세요",
        "The {word} is {mask}.",
        "a {mask} {word}",
    ),
    groups=("teachers", "others"),
    fillers=(
        ({"word": "teacher"}, {"word": "doctor"}),
        ({"word": "mouse"}, {"word": "Élève"}, {"word": "farmer " * 40}),
    ),
    matched=False,
    targets=("late", "good", "no such word"),
)
SHORT = replace(PEOPLE, fillers=(PEOPLE.fillers[0], PEOPLE.fillers[1][:2]))


def rows(scored: Scored) -> list[tuple[str, list[float]]]:
    """Return every sentence with its scores."""
    return [
        (scored.sentences[group][frame][filler], scores[frame, filler].tolist())
        for group, scores in enumerate(scored.scores)
        for frame, filler in np.ndindex(scores.shape[:2])
    ]


def scored_by(bundle: Bundle, dimension: Dimension = PEOPLE) -> Scored:
    found = Model(bundle).scored(dimension)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["sentiment", "toxicity"])
def test_scores_of_a_classifier_are_those_of_the_server(
    shared_models: Path, shared_server: ServerProcess, name: str
) -> None:
    found = rows(scored_by(load_bundle(shared_models / name)))
    assert len(found) == 2 * 5
    labels = load_bundle(shared_models / name).manifest.labels
    answer = shared_server.post("/v1/classify", {"model": name, "inputs": [text for text, _ in found]}).json
    for (_, scores), prediction in zip(found, answer["predictions"], strict=True):
        assert dict(zip(labels, scores, strict=True)) == pytest.approx(
            {one["label"]: one["score"] for one in prediction}, abs=1e-12
        )


def test_probabilities_of_masked_tokens_are_those_of_the_server(
    shared_models: Path, shared_server: ServerProcess
) -> None:
    scored = scored_by(load_bundle(shared_models / "masked"), SHORT)
    assert (scored.labels, scored.left_out) == (("late", "good"), ("no such word",))
    found = rows(scored)
    assert found[0][0] == "The teacher is [MASK]."
    body = {"model": "masked", "inputs": [text for text, _ in found], "parameters": {"targets": ["late", "good"]}}
    for (_, scores), [candidates] in zip(
        found, shared_server.post("/v1/fill-mask", body).json["predictions"], strict=True
    ):
        by_word = {one["token_str"]: log2(one["score"]) for one in candidates}
        assert dict(zip(scored.labels, scores, strict=True)) == pytest.approx(by_word, abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"problem_type": "regression", "labels": ("one",)},
        {"problem_type": "regression"},
        {"problem_type": "multi_label_classification"},
        {"problem_type": "single_label_classification"},
        {"problem_type": None},
        {"problem_type": None, "labels": ("one",)},
    ],
)
def test_logits_become_scores_as_in_the_server(shared_models: Path, changes: Mapping[str, Any]) -> None:
    manifest = load_bundle(shared_models / "sentiment").manifest.model_copy(update=dict(changes))
    logits = np.array([[-800.0, 3, 0.25], [5, -2, 800]])[:, : len(manifest.labels)]
    function = FUNCTIONS[default_function(manifest)]
    assert _scores(logits, manifest) == pytest.approx(np.array([function(row) for row in logits.tolist()]), abs=1e-15)


@pytest.mark.parametrize("function", ["sigmoid", "none", None])
def test_a_reranker_has_the_score_that_its_checkpoint_says(shared_models: Path, function: Any) -> None:
    changes = {"task": "rerank", "labels": ("one",), "score_function": function}
    manifest: Manifest = load_bundle(shared_models / "sentiment").manifest.model_copy(update=changes)
    assert _scores(np.array([[0.5]]), manifest)[0, 0] == pytest.approx(FUNCTIONS[function or "sigmoid"]([0.5])[0])


def test_a_reranker_ranks_the_sentences_by_the_query(bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("roberta-rerank"))
    scored = scored_by(bundle, SHORT)
    assert scored.scores[0].shape == (2, 2, 1)
    other = scored_by(bundle, replace(SHORT, query="What?"))
    assert not np.allclose(scored.scores[0], other.scores[0])
    assert Model(bundle).scored(replace(SHORT, query=None)) is None


def test_a_target_is_the_token_in_its_place(bundle_of: BundleOf) -> None:
    """The tokens of RoBERTa's words have the space before them: `good` alone is another token or none."""
    scored = scored_by(
        load_bundle(bundle_of("roberta-fill-mask")),
        replace(SHORT, targets=("good", "long"), frames=("The {word} is {mask}.",)),
    )
    assert scored.labels == ("good", "long")


def test_sentences_with_unknown_words_are_counted(shared_models: Path) -> None:
    people = replace(
        PEOPLE, fillers=(({"word": "teacher"},), ({"word": "☃"},)), frames=("The {word} is late.", "A {word}.")
    )
    assert scored_by(load_bundle(shared_models / "sentiment"), people).unknown == (0, 2)


def test_a_classifier_cuts_what_is_too_long_and_a_masked_token_model_refuses_it(shared_models: Path) -> None:
    assert scored_by(load_bundle(shared_models / "sentiment")).scores[1].shape == (2, 3, 3)
    with pytest.raises(
        ExportError, match=r"The sentence 'The farmer .* tokens; the model takes 1 to 40\. Write another"
    ):
        Model(load_bundle(shared_models / "masked")).scored(PEOPLE)


def test_a_second_mask_in_a_text_is_refused(shared_models: Path) -> None:
    people = replace(PEOPLE, fillers=(({"word": "[MASK]"},), ({"word": "late"},)))
    with pytest.raises(ExportError, match="has 2 mask tokens for this model, and not one"):
        Model(load_bundle(shared_models / "masked")).scored(people)


def test_a_model_whose_weights_prefer_she_shows_the_gap(bundle_of: BundleOf, tmp_path: Path) -> None:
    """The demo classifier, to which `she` is now `wonderful` and `he` is `terrible`."""
    folder = shutil.copytree(DEMO_CHECKPOINT, tmp_path / "demo-classify")
    ids = Model(load_bundle(bundle_of("demo-classify")))._tokenizer.token_to_id

    def prefer_she(tensors: dict[str, Any]) -> None:
        [name] = [name for name in tensors if name.endswith("word_embeddings.weight")]
        tensors[name] = tensors[name].copy()
        for word, like in (("she", "wonderful"), ("her", "wonderful"), ("he", "terrible"), ("him", "terrible")):
            tensors[name][ids(word)] = tensors[name][ids(like)]

    edit_tensors(folder, prefer_she)
    [pronouns] = [one for one in read_templates(DEFAULT_TEMPLATES) if one.name == "pronouns"]
    plain, edited = (
        gaps_of(scored_by(load_bundle(bundle), pronouns))[0]
        for bundle in (bundle_of("demo-classify"), exported(folder, tmp_path))
    )
    assert (edited.group, edited.label) == ("she", "POSITIVE")
    assert abs(plain.gap) < 0.1 < 0.3 < edited.low


def exported(checkpoint: Path, folder: Path) -> Path:
    export(ExportOptions(str(checkpoint), folder / "bundle", "classify", ("cpu-fp32",)), lambda _: None)
    return folder / "bundle"


# --- refusals


def test_a_bundle_for_another_task_is_refused(bundle_of: BundleOf) -> None:
    with pytest.raises(
        ExportError, match=r"is for the task entities\. Bundles for classify, rerank, fill-mask are audited\."
    ):
        Model(load_bundle(bundle_of("bert-entities")))


def test_a_bundle_without_a_variant_for_cpus_is_refused(bundles: Mapping[str, Bundle], tmp_path: Path) -> None:
    folder = shutil.copytree(bundles["bert-single-label"].folder, tmp_path / "mood")
    manifest = bundles["bert-single-label"].manifest.model_dump(mode="json", exclude_none=True)
    of_cuda = [one for one in manifest["variants"] if one["target"] == "cuda"]
    with pytest.raises(ExportError, match=r"has no variant cuda-fp16 for CPUs\. Choose from cpu-fp32\."):
        Model(load_bundle(folder), "cuda-fp16")
    change_manifest(folder, variants=of_cuda)
    with pytest.raises(
        ExportError, match=r"no variant for CPUs, which the audit runs\. Export .* --variants cpu-fp32\."
    ):
        Model(load_bundle(folder))


def test_fp32_runs_unless_another_variant_is_named(rounded_bundles: Mapping[str, Bundle]) -> None:
    bundle = rounded_bundles["distilbert-two-labels"]
    assert [Model(bundle, name).variant.name for name in (None, "cpu-int8")] == ["cpu-fp32", "cpu-int8"]


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        (
            "sentiment",
            {"frames": ("{word} {mask}",)},
            "nothing for the task classify: a dimension needs a frame without",
        ),
        (
            "masked",
            {"frames": ("{word}",)},
            "nothing for the task fill-mask: a dimension needs a frame with {mask} and a",
        ),
        ("masked", {"targets": ("no such word",)}, "and a target that is one token."),
    ],
)
def test_templates_that_have_nothing_for_the_task_are_refused(
    shared_models: Path, name: str, changes: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(ExportError) as caught:
        score_all(load_bundle(shared_models / name), None, [replace(SHORT, **changes)], lambda _: None)
    assert says in str(caught.value)


def test_a_graph_that_is_another_one_than_exported_is_refused(bundle_of: BundleOf, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle_of("bert-single-label"), tmp_path / "mood")
    content = bytearray((folder / "cpu-fp32.onnx").read_bytes())
    content[-100] ^= 1
    (folder / "cpu-fp32.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="is not the file that was exported"):
        score_all(load_bundle(folder), None, [SHORT], lambda _: None)
