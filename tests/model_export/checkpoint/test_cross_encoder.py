"""What is read from a CrossEncoder's folder, of the newest form and of older ones, and what is refused in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import Manifest
from model_export.checkpoint.cross_encoder import CrossEncoderSettings, is_cross_encoder, read_cross_encoder
from model_export.checkpoint.sentence_transformers import EmbeddingSettings, read_embedding_settings
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS

Copy = Callable[..., Path]

NEWEST, PLAIN = "roberta-rerank", "distilbert-one-label"
MODEL_FILE = "config_sentence_transformers.json"
SETTINGS_FILE = "sentence_bert_config.json"


def exported(folder: Path, output: Path, task: str = "auto") -> Manifest:
    return export(ExportOptions(str(folder), output, task, variants=["cpu-fp32"]), lambda _: None)


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"}}, "Identity"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "Sigmoid"),
        ({"sbert_ce_default_activation_function": None}, None),
        ({"sentence_transformers": {"version": "5.1.0"}}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_older_forms_have_their_activation_in_the_config(
    copy_of: Copy, config: dict[str, Any], activation: str | None
) -> None:
    folder = copy_of(PLAIN, **config)
    assert is_cross_encoder(folder) is (activation is not None)
    found = read_cross_encoder(folder).activation
    assert (found and found.rpartition(".")[2]) == activation


def test_the_newest_form_is_read(copy_of: Copy) -> None:
    folder = copy_of(NEWEST)
    assert is_cross_encoder(folder)
    assert read_cross_encoder(folder) == CrossEncoderSettings("torch.nn.modules.linear.Identity")
    change(folder / SETTINGS_FILE, max_seq_length=16, do_lower_case=True, processing_kwargs={}, unpad_inputs=None)
    assert read_cross_encoder(folder) == CrossEncoderSettings("torch.nn.modules.linear.Identity", 16, lowercases=True)


def test_the_newest_form_goes_before_an_older_one(copy_of: Copy) -> None:
    """As in sentence-transformers, which leaves the older keys of a model that it saves again in its config."""
    folder = copy_of(NEWEST, sbert_ce_default_activation_function="torch.nn.modules.activation.Sigmoid")
    assert read_cross_encoder(folder).activation == "torch.nn.modules.linear.Identity"
    change(folder / MODEL_FILE, activation_fn=None)
    assert read_cross_encoder(folder).activation == "torch.nn.modules.activation.Sigmoid"


def test_an_embedder_that_was_a_cross_encoder_is_none_any_more(copy_of: Copy) -> None:
    folder = copy_of("bert-embed", sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")
    assert not is_cross_encoder(folder)
    assert read_embedding_settings(folder, "auto").max_length == 32


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (None, "sigmoid"),
        ("torch.nn.modules.activation.Sigmoid", "sigmoid"),
        ("torch.nn.Sigmoid", "sigmoid"),
        ("torch.nn.modules.linear.Identity", "none"),
        ("torch.nn.modules.Identity", "none"),
    ],
)
def test_identity_and_sigmoid_are_read_in_every_spelling(activation: str | None, function: str) -> None:
    assert CrossEncoderSettings(activation).score_function("it") == function


@pytest.mark.parametrize(
    "activation", ["torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.Softmax", "my.module.Sigmoid", 3]
)
def test_another_activation_is_refused_by_name(copy_of: Copy, tmp_path: Path, activation: object) -> None:
    folder = copy_of(NEWEST)
    change(folder / MODEL_FILE, activation_fn=activation)
    with pytest.raises(ExportError, match=rf"the activation {activation}; only .*--task classify"):
        exported(folder, tmp_path / "out")
    assert exported(folder, tmp_path / "out", "classify").score_function is None


@pytest.mark.parametrize(
    ("file", "keys", "says"),
    [
        (MODEL_FILE, {"default_prompt_name": "query", "prompts": {"query": "Q: "}}, "has the default prompt 'query'"),
        (MODEL_FILE, {"default_prompt_name": ["query"], "prompts": ["query"]}, "has the default prompt \\['query'\\]"),
        (
            SETTINGS_FILE,
            {"tokenizer_args": [["model_max_length"]]},
            "tokenizer_args .* it must be an object of arguments",
        ),
        (SETTINGS_FILE, {"max_seq_length": "long"}, "max_seq_length in .* is not a number of tokens"),
        (SETTINGS_FILE, {"transformer_task": "text-generation"}, "has the transformer_task 'text-generation'"),
        (SETTINGS_FILE, {"module_output_name": "token_embeddings"}, "has the module_output_name 'token_embeddings'"),
        (SETTINGS_FILE, {"processing_kwargs": {"text": {"max_length": 9}}}, "has the processing_kwargs"),
        (
            SETTINGS_FILE,
            {"modality_config": {"message": {"method": "forward", "method_output_name": "logits"}}},
            "has the modality_config",
        ),
    ],
)
@pytest.mark.parametrize("name", [NEWEST, "bert-nli"])
def test_what_changes_scores_is_refused_by_name(
    copy_of: Copy, tmp_path: Path, name: str, file: str, keys: dict[str, Any], says: str
) -> None:
    folder = copy_of(name)
    change(folder / file, **keys)
    with pytest.raises(ExportError, match=says):
        exported(folder, tmp_path / "out")


def test_prompts_that_are_no_default_change_nothing(copy_of: Copy) -> None:
    folder = copy_of(NEWEST)
    change(folder / MODEL_FILE, prompts={"query": "Q: "})
    assert read_cross_encoder(folder).activation == "torch.nn.modules.linear.Identity"
    change(folder / MODEL_FILE, prompts={"query": ""}, default_prompt_name="query")
    assert read_cross_encoder(folder).activation == "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")], "Transformer, Pooling in 1_Pooling, Dense"),
        ([("Transformer", "0_Transformer")], "lists Transformer in 0_Transformer; a CrossEncoder can"),
        ([], "lists no modules; a CrossEncoder can"),
        (None, "is not a list of modules with type and path"),
    ],
)  # fmt: skip
def test_other_modules_are_refused(copy_of: Copy, modules: list[tuple[str, str]] | None, says: str) -> None:
    folder = copy_of(NEWEST)
    listed: Any = ["Transformer"] if modules is None else [{"type": f"a.b.{kind}", "path": at} for kind, at in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(ExportError, match=says):
        read_cross_encoder(folder)


@pytest.mark.parametrize(
    ("name", "config", "task", "function"),
    [
        (NEWEST, {}, "rerank", "none"),
        ("bert-nli", {}, "classify", None),
        (PLAIN, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "rerank", "none"),
        (PLAIN, {}, "classify", None),
    ],
)
def test_a_cross_encoder_is_for_rerank_or_with_several_labels_for_classify(
    copy_of: Copy, tmp_path: Path, name: str, config: dict[str, Any], task: str, function: str | None
) -> None:
    manifest = exported(copy_of(name, **config), tmp_path / "out")
    assert (manifest.task, manifest.score_function) == (task, function)


def test_any_model_with_one_label_can_be_exported_for_rerank(copy_of: Copy, tmp_path: Path) -> None:
    manifest = exported(copy_of(PLAIN), tmp_path / "out", "rerank")
    assert (manifest.task, manifest.score_function) == ("rerank", "sigmoid")


def test_the_manifest_of_another_task_has_no_score_function(copy_of: Copy, tmp_path: Path) -> None:
    exported(copy_of(PLAIN), tmp_path / "out")
    assert "score_function" not in (tmp_path / "out" / "manifest.json").read_text()


def test_several_labels_are_not_a_score(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has 3 labels; rerank needs .* Choose --task classify or --task embed\.$"):
        exported(CHECKPOINTS / "bert-nli", tmp_path / "out", "rerank")


def test_the_folders_length_is_the_bundles(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of(NEWEST)
    change(folder / SETTINGS_FILE, max_seq_length=16)
    assert exported(folder, tmp_path / "out").max_length == 16


def test_lower_case_is_the_tokenizers(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of(NEWEST)
    change(folder / SETTINGS_FILE, do_lower_case=True)
    with pytest.raises(ExportError, match="expects texts in lower case"):
        exported(folder, tmp_path / "out")


def test_its_encoder_gives_embeddings_as_that_of_any_model_does() -> None:
    assert read_embedding_settings(CHECKPOINTS / NEWEST, "auto") == EmbeddingSettings("mean")
