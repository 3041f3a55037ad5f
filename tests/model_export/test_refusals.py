"""Checkpoints that cannot be exported: each is refused by name, with what to do, and nothing is left behind."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.checkpoint.find import choose_task, find_checkpoint
from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS, ROOT, edit_tensors

Copy = Callable[..., Path]

ARCHITECTURES: dict[str, str] = {
    "classify": "ForSequenceClassification",
    "fill-mask": "ForMaskedLM",
    "next-sentence": "ForNextSentencePrediction",
    "entities": "ForTokenClassification",
    "answer": "ForQuestionAnswering",
}


def refusal(folder: Path | str, output: Path, **options: Any) -> str:
    """Export, expect a refusal of one line, and see that nothing was written."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(ExportError) as caught:
        export(ExportOptions(str(folder), output, **options), lambda _: None)
    assert sorted(output.parent.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "t5"}, "model type 't5'; bert, roberta, xlm-roberta, camembert, distilbert, electra can be"),
        ({"model_type": None}, "not a JSON object with a model_type"),
        ({"hidden_act": "silu"}, "activation 'silu'; gelu, "),
        ({"position_embedding_type": "relative_key"}, "'relative_key' position embeddings; only absolute"),
        ({"is_decoder": True}, "sets is_decoder; only encoders"),
        ({"add_cross_attention": True}, "sets add_cross_attention; only encoders"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0; it must be a whole number from 1 up to 1000"),
        ({"num_attention_heads": 5}, "hidden size of 32, which 5 attention heads cannot share"),
        ({"num_hidden_layers": "two"}, "transformers cannot read"),
        ({"num_hidden_layers": 3}, "lacks the tensors bert.encoder.layer.2.attention.self.query.weight, "),
        ({"vocab_size": 300}, "token ids up to 399, but its config.json has a vocab_size of 300"),
        (
            {"vocab_size": 500},
            "word_embeddings.weight in .* has the shape .400, 32., but by config.json it should be .500, 32.",
        ),
        ({"max_position_embeddings": 99}, "position_embeddings.weight .* Correct max_position_embeddings"),
        ({"intermediate_size": 65}, "intermediate.dense.weight .* Correct the sizes of the layers"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.weight .* Correct id2label"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label in .* does not number the labels"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000; it must be a whole number from 1 up to 1000"),
        ({"num_attention_heads": 0}, "num_attention_heads 0; it must be a whole number"),
        ({"num_attention_heads": -1}, "num_attention_heads -1; it must be a whole number"),
        ({"num_labels": 10**9}, "num_labels 1000000000, which is no number of labels"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps inf; it must be a small number"),
        ({"problem_type": "x"}, "problem_type 'x'; it must be single_label_classification, "),
        ({"model_type": ["bert"]}, "not a JSON object with a model_type"),
        ({"architectures": 3}, "architectures 3; it must be a list of the names of classes"),
        ({"architectures": ["\ud800"]}, "has a text with half of a surrogate pair, which is no Unicode"),
        ({"id2label": {"0": "a", "1": "\ud800", "2": "c"}}, "has a text with half of a surrogate pair"),
        ({"id2label": {"0": "a", "1": ["b"], "2": "c"}}, "id2label in .* has a label that is no text"),
        ({"label2id": ["a", "b", "c"]}, "label2id in .* is not a JSON object of numbers by label"),
        ({"hidden_act": "y" * 1000}, r"activation 'y{59}\.\.\.; gelu, "),
        (
            {"architectures": ["BertForMultipleChoice"]},
            r"no head that .* \(BertForMultipleChoice\)\. Say which .*: --task embed\.$",
        ),
        (
            {"architectures": ["BertLMHeadModel"]},
            r"no head that .* \(BertLMHeadModel\)\. Say which .*: --task embed\.$",
        ),
        (
            {"architectures": None},
            r"\(no architecture\)\. Say which one to export: --task classify or --task entities or --task embed\.$",
        ),
        (
            {"architectures": ["BertForMaskedLM", "BertForSequenceClassification"]},
            "names several heads .*: --task classify or --task fill-mask or --task embed\\.$",
        ),
    ],
)
def test_config(copy_of: Copy, tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    assert re.search(expected, refusal(copy_of("bert-single-label", **config), tmp_path / "out"))


def test_family_whose_positions_follow_padding_needs_a_pad_token(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("roberta-single-label")
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert "no pad_token_id" in refusal(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "task", "head"),
    [
        ("bert-fill-mask", "classify", "bert.pooler.dense.weight"),
        ("bert-single-label", "fill-mask", "cls.predictions.transform.dense.weight"),
        ("roberta-fill-mask", "classify", "classifier.dense.weight"),
        ("distilbert-two-labels", "fill-mask", "vocab_transform.weight"),
        ("electra-single-label", "fill-mask", "generator_predictions.dense.weight"),
        ("bert-fill-mask", "next-sentence", "bert.pooler.dense.weight"),
        ("roberta-fill-mask", "entities", "classifier.weight"),
        ("distilbert-two-labels", "answer", "qa_outputs.weight"),
    ],
)
def test_head_that_is_not_there_is_never_made_up(
    copy_of: Copy, tmp_path: Path, name: str, task: str, head: str
) -> None:
    [own] = json.loads((CHECKPOINTS / name / "config.json").read_text())["architectures"]
    message = refusal(copy_of(name), tmp_path / "out", task=task)
    assert re.search(rf"has no trained .* head: its config names {own}\. Choose --task ", message)
    # Without an architecture in the config, or with a wrong one, the tensors decide.
    for claimed in (None, [own.split("For")[0] + ARCHITECTURES[task]]):
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": claimed}))
        message = refusal(tmp_path / name, tmp_path / "out", task=task)
        assert "has no trained" in message
        assert head in message
        assert "--task" in message


def test_head_that_the_family_does_not_have(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("roberta-fill-mask", architectures=["RobertaForNextSentencePrediction"])
    message = refusal(folder, tmp_path / "out", task="next-sentence")
    assert "is of the family roberta, which has no next-sentence head. Choose another --task." in message


@pytest.mark.parametrize(
    ("name", "task", "own"),
    [
        ("bert-single-label", "entities", "classify"),
        ("distilbert-two-labels", "entities", "classify"),
        ("bert-entities", "classify", "entities"),
        ("roberta-entities", "classify", "entities"),
    ],
)
def test_head_of_the_same_name(copy_of: Copy, tmp_path: Path, name: str, task: str, own: str) -> None:
    """A classifier of texts would give labels without meaning to tokens."""
    message = refusal(copy_of(name), tmp_path / "out", task=task)
    assert "has no trained" in message
    assert f". Choose --task {own} or --task embed, or " in message


@pytest.mark.parametrize("task", ["entities", "answer"])
def test_head_that_is_none_of_several(tmp_path: Path, task: str) -> None:
    """The demo checkpoint has a classifier, of texts."""
    message = refusal(ROOT / "model_export" / "demo_checkpoint", tmp_path / "out", task=task)
    assert "head: its config names BertForPreTraining, BertForSequenceClassification. " in message
    assert "Choose --task classify or --task fill-mask or --task next-sentence or --task embed, or fine-tune" in message


def test_a_masked_token_head_beside_a_classifier_is_none_for_next_sentences(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-fill-mask", architectures=["BertForMaskedLM", "BertForSequenceClassification"])
    message = refusal(folder, tmp_path / "out", task="next-sentence")
    assert "head: its config names BertForMaskedLM, BertForSequenceClassification. " in message
    assert "Choose --task classify or --task fill-mask or --task embed, or fine-tune" in message


def test_second_head_of_pretraining_is_named(copy_of: Copy) -> None:
    checkpoint = find_checkpoint(str(copy_of("bert-next-sentence", architectures=["BertForPreTraining"])))
    assert choose_task(checkpoint, "next-sentence", []).name == "next-sentence"
    assert choose_task(checkpoint, "auto", []).name == "fill-mask"


def test_head_that_the_config_does_not_name_is_found_by_its_tensors(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label", architectures=None)
    options = ExportOptions(str(folder), tmp_path / "out", task="classify", variants=["cpu-fp32"])
    assert export(options, lambda _: None).task == "classify"


def test_pooling_of_another_task(copy_of: Copy, tmp_path: Path) -> None:
    message = refusal(copy_of("bert-entities"), tmp_path / "out", pooling="cls")
    assert message == "--pooling cls is for --task embed, but the task is entities. Leave it out."


def test_untied_decoder_that_is_not_there(copy_of: Copy, tmp_path: Path) -> None:
    message = refusal(copy_of("bert-fill-mask", tie_word_embeddings=False), tmp_path / "out")
    assert "has no trained masked-token head: it lacks cls.predictions.decoder.weight." in message


def test_missing_tensors_are_named(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    edit_tensors(folder, lambda tensors: tensors.pop("bert.encoder.layer.1.output.LayerNorm.bias"))
    message = refusal(folder, tmp_path / "out")
    assert "lacks the tensors bert.encoder.layer.1.output.LayerNorm.bias. Save or download" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "tensor", ["bert.pooler.dense.bias", "bert.encoder.layer.0.attention.output.dense.bias", "classifier.bias"]
)
def test_weights_that_are_not_numbers(copy_of: Copy, tmp_path: Path, tensor: str, value: float) -> None:
    folder = copy_of("bert-single-label")
    edit_tensors(folder, lambda tensors: np.put(tensors[tensor], 0, value))
    message = refusal(folder, tmp_path / "out")
    where = "The checkpoint's answers contain" if tensor == "classifier.bias" else "has"
    assert f"{where} infinity or NaN" in message
    assert (f"infinity or NaN in {tensor}: its weights are damaged" in message) == (where == "has")


def test_weights_too_large_for_the_reference(copy_of: Copy, tmp_path: Path) -> None:
    """Each is finite, and their sum is not."""
    folder = copy_of("bert-single-label")
    edit_tensors(folder, lambda tensors: tensors["bert.encoder.layer.0.output.dense.bias"].fill(3e38))
    assert "answers contain infinity or NaN: its weights are damaged" in refusal(folder, tmp_path / "out")


def test_bias_of_minus_infinity_forbids_an_answer_and_is_exported(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-fill-mask")
    edit_tensors(folder, lambda tensors: np.put(tensors["cls.predictions.bias"], 7, -np.inf))
    export(ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"]), lambda _: None)


def test_weights_beyond_half_precision(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    edit_tensors(folder, lambda tensors: tensors["bert.encoder.layer.0.attention.self.query.bias"].fill(1e5))
    message = refusal(folder, tmp_path / "out", variants=["cuda-fp16"])
    assert "beyond 65504" in message
    assert "Leave cuda-fp16 out of --variants" in message


def test_no_tokenizer(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-regression")
    (folder / "vocab.txt").unlink()
    assert "has no tokenizer: none of tokenizer.json, vocab.txt" in refusal(folder, tmp_path / "out")


def test_damaged_tokenizer(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    (folder / "tokenizer.json").write_text("{")
    assert "cannot read the tokenizer" in refusal(folder, tmp_path / "out")


def test_tokenizer_without_mask(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-fill-mask")
    text = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(json.loads(text) | {"mask_token": None}))
    assert "has no mask token" in refusal(folder, tmp_path / "out")


def vocabulary_without(folder: Path, missing: str) -> Path:
    """Leave a checkpoint of BERT only a vocabulary file, with another word in the place of a token."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("".join(f"{'unused' if word == missing else word}\n" for word in words))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.mark.parametrize(("token", "setting"), [("[PAD]", "pad_token"), ("[MASK]", "mask_token")])
def test_vocabulary_without_a_token_that_texts_do_not_need(
    copy_of: Copy, tmp_path: Path, token: str, setting: str
) -> None:
    folder = vocabulary_without(copy_of("bert-single-label"), token)
    message = refusal(folder, tmp_path / "out")
    assert f"has tokens for which the model has no embeddings: '{token}'. " in message
    assert "model.resize_token_embeddings(len(tokenizer))" in message
    assert message.endswith("name another token of its vocabulary in tokenizer_config.json.")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", setting: "[UNK]"}))
    export(ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32"]), lambda _: None)


@pytest.mark.parametrize(
    ("token", "what"),
    [("[CLS]", "they belong to different models"), ("[UNK]", "replace it with the model's own tokenizer")],
)
def test_vocabulary_without_a_token_that_texts_need_is_another_models(
    copy_of: Copy, tmp_path: Path, token: str, what: str
) -> None:
    folder = vocabulary_without(copy_of("bert-single-label"), token)
    assert what in refusal(folder, tmp_path / "out")


def test_tokens_added_without_resizing_are_named(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    token = {"id": 400, "content": "<brand>", "special": False, "normalized": True}
    content["added_tokens"].append(token | {"single_word": False, "lstrip": False, "rstrip": False})
    path.write_text(json.dumps(content))
    message = refusal(folder, tmp_path / "out")
    assert "has tokens for which the model has no embeddings: '<brand>'. They were added after the 400" in message


@pytest.mark.parametrize("length", ["32", -1, 0, [], 32.5])
def test_maximum_length_of_the_tokenizer_that_is_no_number(copy_of: Copy, tmp_path: Path, length: object) -> None:
    folder = copy_of("bert-single-label")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
    message = refusal(folder, tmp_path / "out")
    assert f"has the model_max_length {length!r}; it must be a whole number from 1 up. Correct it." in message


@pytest.mark.skipif("__import__('importlib.util').util.find_spec('sentencepiece')", reason="sentencepiece is installed")
def test_sentencepiece_model_alone_needs_sentencepiece(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("camembert-fill-mask")
    (folder / "tokenizer.json").rename(folder / "sentencepiece.bpe.model")
    assert f"Run '{sys.executable} -m pip install sentencepiece'" in refusal(folder, tmp_path / "out")


def test_damaged_sentencepiece_model(copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of("camembert-fill-mask")
    (folder / "tokenizer.json").rename(folder / "sentencepiece.bpe.model")
    monkeypatch.setattr("model_export.checkpoint.tokenizer_readings.find_spec", lambda _: True)
    assert "The sentencepiece model in" in refusal(folder, tmp_path / "out")


def test_a_class_of_peoples_own_is_exported_for_the_task_that_is_named(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-multi-label", architectures=["BertForMultiLabelClassification"], problem_type=None)
    assert "Say which one to export: --task classify or --task entities or --task embed." in refusal(
        folder, tmp_path / "out"
    )
    warnings: list[str] = []
    options = ExportOptions(str(folder), tmp_path / "out", task="classify", variants=["cpu-fp32"])
    export(options, lambda _: None, warnings.append)
    [warning] = warnings
    assert (
        "is of BertForMultiLabelClassification, which transformers does not have: it is exported as a plain" in warning
    )
    assert 'set problem_type to "multi_label_classification"' in warning


def test_no_weights(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    (folder / "model.safetensors").unlink()
    assert "has no weights: neither model.safetensors nor pytorch_model.bin" in refusal(folder, tmp_path / "out")


def test_no_config(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    (folder / "config.json").unlink()
    assert "is not a checkpoint: it has no config.json" in refusal(folder, tmp_path / "out")


def test_config_that_is_not_json(copy_of: Copy, tmp_path: Path) -> None:
    folder = copy_of("bert-single-label")
    (folder / "config.json").write_text("[")
    assert "is not JSON" in refusal(folder, tmp_path / "out")


def test_checkpoint_that_is_nowhere(tmp_path: Path) -> None:
    assert "neither a folder nor a hub id" in refusal(tmp_path / "a" / "b", tmp_path / "out")


def test_revision_of_a_folder(copy_of: Copy, tmp_path: Path) -> None:
    message = refusal(copy_of("bert-single-label"), tmp_path / "out", revision="main")
    assert "--revision is for checkpoints on the hub" in message


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [(41, "--max-length 41 exceeds the 40 positions"), (2, "leaves no room for text"), (3, None)],
)
def test_max_length(copy_of: Copy, tmp_path: Path, max_length: int, expected: str | None) -> None:
    folder = copy_of("bert-single-label")
    if expected is not None:
        assert expected in refusal(folder, tmp_path / "out", max_length=max_length)
        return
    manifest = export(ExportOptions(str(folder), tmp_path / "out", max_length=max_length), lambda _: None)
    assert manifest.max_length == max_length


def test_difference_over_the_tolerance(copy_of: Copy, tmp_path: Path) -> None:
    message = refusal(copy_of("bert-single-label"), tmp_path / "out", tolerance=1e-9)
    assert re.search(r"cpu-fp32 differs from the reference by \d\.?\d*e-0[67]; 1e-09 is allowed", message)


def test_regression_of_large_numbers_is_exported(copy_of: Copy, tmp_path: Path) -> None:
    """Its answers are around 80,000, of which seven digits are right in fp32; fp16 cannot hold the weights of its head."""
    folder = copy_of("bert-regression")
    edit_tensors(
        folder, lambda tensors: np.multiply(tensors["classifier.weight"], 1e5, out=tensors["classifier.weight"])
    )
    variants = ["cpu-fp32", "cuda-fp32", "cuda-fp16"]
    manifest = export(ExportOptions(str(folder), tmp_path / "out", variants=variants), lambda _: None)
    assert [variant.name for variant in manifest.variants] == variants


@pytest.mark.parametrize("name", ["bert-regression", "bert-entities", "distilbert-two-labels", "electra-single-label"])
def test_a_network_that_magnifies_rounding_is_exported_in_fp32(copy_of: Copy, tmp_path: Path, name: str) -> None:
    """With weights around 2, fp32 gives three or four digits, and the reference has no more."""

    def enlarge(tensors: dict[str, Any]) -> None:
        generator = np.random.default_rng(3)
        for part, tensor in tensors.items():
            if not part.lower().rpartition(".")[0].endswith("norm"):
                tensors[part] = generator.normal(0, 2, tensor.shape).astype(np.float32)

    folder = copy_of(name)
    edit_tensors(folder, enlarge)
    export(ExportOptions(str(folder), tmp_path / "out", variants=["cpu-fp32", "cuda-fp32"]), lambda _: None)


def test_output_that_is_a_file(copy_of: Copy, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refusal(copy_of("bert-single-label"), tmp_path / "out")


def test_output_that_holds_something_else(copy_of: Copy, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert "is not empty and is not a bundle" in refusal(copy_of("bert-single-label"), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("name", ["a b", ".hidden", "ünïcode"])
def test_output_that_is_no_name(copy_of: Copy, tmp_path: Path, name: str) -> None:
    assert "does not end in a valid name of a bundle" in refusal(copy_of("bert-single-label"), tmp_path / name)


def test_scores_that_half_precision_changes(copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_export.check.tolerances.MOST_SCORE_DIFFERENCE", 1e-6)
    single = copy_of("bert-single-label")
    for folder in (single, copy_of("bert-multi-label")):
        assert "The scores of cuda-fp16 differ" in refusal(folder, tmp_path / "out", variants=["cuda-fp16"])
    # A regression has no scores, and an explicit tolerance replaces this check.
    export(ExportOptions(str(copy_of("bert-regression")), tmp_path / "one", variants=["cuda-fp16"]), print)
    export(ExportOptions(str(single), tmp_path / "two", variants=["cuda-fp16"], tolerance=0.1), print)
